"""From a box in pixels and a depth image to a place and a size in metres. Knows nothing of rclpy.

Frame of all results: the camera's optical frame, x right, y down, z forward, metres (REP 103). The depth image must be
registered to the image of the box: same camera, same view; its resolution may differ. Lens distortion is not undone:
rectified images are expected where it matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_ros.conversion import rows_of

# REP 118: 16-bit depth is in millimetres, 32-bit in metres.
MAX_PIXELS = 33_177_600  # 7680 x 4320
SAMPLES = {"16UC1": np.dtype(np.uint16), "mono16": np.dtype(np.uint16), "32FC1": np.dtype(np.float32)}
MILLIMETRE = 0.001
MAX_SAMPLES = 20_000
CORE = 0.5  # middle part of the box, per side, that says how far the object is
MIN_REACH_M = 0.03
PERCENTILES = (5.0, 95.0)


@dataclass(frozen=True, slots=True)
class Pinhole:
    """Intrinsics of the image that boxes are in.

    Attributes:
        fx, fy: focal lengths, pixels.
        cx, cy: principal point, pixels; the centre of the first pixel is (0, 0).
        wh: width and height of the image, pixels.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    wh: tuple[int, int]

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not all(math.isfinite(v) for v in numbers) or min(self.fx, self.fy) <= 0 or min(self.wh) <= 0:
            raise InputError(
                "a calibrated camera_info", f"fx, fy, cx, cy {numbers} of {self.wh}", "calibrate the camera"
            )

    @classmethod
    def from_camera_info(cls, message: Any) -> Pinhole:
        """sensor_msgs/CameraInfo: P where the driver gives it (rectified images), else K.

        Both are of the whole sensor; the image is its region of interest, binned. A pixel's centre moves by half a pixel
        when pixels are joined: (c - offset + 0.5) / binning - 0.5 (image_geometry leaves that half out).

        Raises:
            InputError: not calibrated, or a region that does not lie on the sensor.
        """
        matrix, places = (message.p, (0, 5, 2, 6)) if message.p[0] > 0 else (message.k, (0, 4, 2, 5))
        fx, fy, cx, cy = (float(matrix[place]) for place in places)
        sensor_wh, roi = (int(message.width), int(message.height)), message.roi
        x, y = int(roi.x_offset), int(roi.y_offset)
        width, height = int(roi.width) or sensor_wh[0], int(roi.height) or sensor_wh[1]
        if x + width > sensor_wh[0] or y + height > sensor_wh[1]:
            found = f"{width}x{height} at {x}, {y} on {sensor_wh[0]}x{sensor_wh[1]}"
            raise InputError("a camera_info whose roi lies on its sensor", found, "correct the camera driver")
        bx, by = max(1, int(message.binning_x)), max(1, int(message.binning_y))
        cx, cy = (cx - x + 0.5) / bx - 0.5, (cy - y + 0.5) / by - 0.5
        return cls(fx / bx, fy / by, cx, cy, (width // bx, height // by))

    def check_size(self, what: str, wh: tuple[int, int], *, scaled: bool = False) -> None:
        """Refuse an image that these intrinsics are not of.

        Args:
            what: its name in the message.
            wh: its size.
            scaled: another resolution of the same view will do.

        Raises:
            InputError: another size (or shape).
        """
        off = abs(wh[0] * self.wh[1] - wh[1] * self.wh[0]) > max(self.wh) if scaled else wh != self.wh
        if off:
            expected = f"{what} of {self.wh[0]}x{self.wh[1]} pixels, as camera_info says with its binning and roi"
            hint = "take the camera_info that belongs to it" + (", or a depth image registered to it" if scaled else "")
            raise InputError(expected, f"{wh[0]}x{wh[1]}", hint)


@dataclass(frozen=True, slots=True)
class MetricBox:
    """An upright box in the camera's optical frame, metres.

    Attributes:
        centre: x, y, z of the middle of what is visible.
        size: along x and y the extent of the box at that distance; along z of the visible surface, so it is a lower
            bound: no camera sees the back.
        support: share of the box's pixels that the distance was taken from, 0-1.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    support: float


def check_depth(message: Any) -> None:
    """Refuse a depth image that `depth_in_metres` could not use, in O(1).

    Raises:
        InputError: another encoding, or size, step and length that do not fit together.
    """
    width, height, name = int(message.width), int(message.height), message.encoding
    if name not in SAMPLES:
        raise InputError(f"a depth image of {', '.join(SAMPLES)}", repr(name), "take the camera's depth topic")
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise InputError(f"1 to {MAX_PIXELS} pixels", f"{width}x{height}", "lower the camera's resolution")
    row_bytes = width * SAMPLES[name].itemsize
    if message.step < row_bytes or len(message.data) < height * message.step:
        found = f"step {message.step} and {len(message.data)} bytes"
        raise InputError(f"{height} rows of at least {row_bytes} bytes", found, "correct the publisher")


def depth_in_metres(message: Any) -> NDArray[np.float32]:
    """sensor_msgs/Image with 16UC1 (mono16) or 32FC1 samples, either byte order, to [H, W] float32; NaN where unknown.

    Raises:
        InputError: see `check_depth`.
    """
    check_depth(message)
    sample = SAMPLES[message.encoding]
    values = rows_of(message, int(message.height), int(message.width) * sample.itemsize, sample)
    metres = values.astype(np.float32) * np.float32(MILLIMETRE if sample == np.uint16 else 1.0)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


def locate(
    depth_m: NDArray[np.float32], camera: Pinhole, box: Box, *, max_depth_m: float = 10.0, min_support: float = 0.1
) -> MetricBox | None:
    """Where the object in a box is, and how large.

    The middle of the box says how far the object is (median); of the whole box only pixels about that far away count, so
    neither the table in front nor the wall behind moves the result. Percentiles instead of extremes: single wrong pixels
    are the rule along edges.

    Args:
        depth_m: [H, W] float32 metres, NaN where unknown; registered to the camera's image, any resolution.
        camera: of the image that `box` is in.
        box: pixels of that image; parts outside it are cut off.
        max_depth_m: farther values are not believed.
        min_support: least share of the box's pixels that must be known and about that far.

    Returns:
        None where the depth image says too little.

    Raises:
        InputError: the depth image shows another view: its shape differs from the camera's image.

    Example:
        >>> flat = np.full((480, 640), 2.0, np.float32)
        >>> found = locate(flat, Pinhole(500, 500, 319.5, 239.5, (640, 480)), Box(270, 190, 370, 290))
        >>> [round(v, 3) for v in (*found.centre, *found.size)]
        [0.0, 0.0, 2.0, 0.4, 0.4, 0.0]
    """
    camera.check_size("a depth image of the same view as one", (depth_m.shape[1], depth_m.shape[0]), scaled=True)
    seen = box.clipped(*camera.wh)
    if seen.area_px2 <= 0:
        return None
    rows, columns = depth_m.shape
    sx, sy = columns / camera.wh[0], rows / camera.wh[1]
    inside = _cut(depth_m, seen, sx, sy)
    stride = max(1, math.isqrt(max(1, inside.size // MAX_SAMPLES)))
    inside = inside[::stride, ::stride]
    known = inside[(inside > 0) & (inside <= max_depth_m)]  # NaN compares false
    shrink_x, shrink_y = (seen.x2 - seen.x1) * (1 - CORE) / 2, (seen.y2 - seen.y1) * (1 - CORE) / 2
    core = _cut(depth_m, Box(seen.x1 + shrink_x, seen.y1 + shrink_y, seen.x2 - shrink_x, seen.y2 - shrink_y), sx, sy)
    core = core[(core > 0) & (core <= max_depth_m)]
    if known.size < min_support * inside.size or known.size == 0:
        return None
    distance = float(np.median(core if core.size else known))
    width, height = (seen.x2 - seen.x1) / camera.fx * distance, (seen.y2 - seen.y1) / camera.fy * distance
    reach = max(MIN_REACH_M, 0.75 * max(width, height))
    surface = known[np.abs(known - distance) <= reach]
    support = surface.size / inside.size
    if support < min_support:
        return None
    near, far = (float(v) for v in np.percentile(surface, PERCENTILES))
    middle = float(np.median(surface))
    # Box coordinates are pixel edges, the principal point is a pixel centre: half a pixel apart.
    x = ((seen.x1 + seen.x2) / 2 - 0.5 - camera.cx) / camera.fx * middle
    y = ((seen.y1 + seen.y2) / 2 - 0.5 - camera.cy) / camera.fy * middle
    scale = middle / distance
    return MetricBox((x, y, (near + far) / 2), (width * scale, height * scale, far - near), support)


def _cut(depth_m: NDArray[np.float32], box: Box, sx: float, sy: float) -> NDArray[np.float32]:
    """The pixels of a box given in the colour image; at least one."""
    rows, columns = depth_m.shape
    x1, y1 = min(columns - 1, round(box.x1 * sx)), min(rows - 1, round(box.y1 * sy))
    x2, y2 = max(x1 + 1, round(box.x2 * sx)), max(y1 + 1, round(box.y2 * sy))
    return depth_m[y1:y2, x1:x2]
