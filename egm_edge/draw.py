"""Boxes on pictures: draws groundings on a copy of an image and saves it atomically.

Images are [H, W, 3] uint8 RGB. Knows nothing of models; a grounding's box, task and expression are all it looks at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.files import check_place, whole_file
from egm_edge.grounding import Grounding, Task
from egm_edge.tracking.tracked import TrackedBox, TrackState

Image = NDArray[np.uint8]
RGB = tuple[int, int, int]

# Okabe and Ito's palette: told apart by people who do not see all colours.
PALETTE: tuple[RGB, ...] = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
WHITE: RGB = (255, 255, 255)
LABEL_MAX_CHARS = 48
DASH_PX, GAP_PX = 10, 7
SAVE_SUFFIXES = (".png", ".jpg", ".jpeg")


def draw_groundings(image_rgb: Image, groundings: Iterable[Grounding]) -> Image:
    """Draw every answer: a box with its expression (amodal: dashed), or the outcome's name where there is no box.

    Args:
        image_rgb: [H, W, 3] uint8 RGB, the image that was grounded; left unchanged.

    Returns:
        A copy of it with the boxes.
    """
    canvas = np.ascontiguousarray(image_rgb).copy()
    labels: list[_Label] = []
    for index, grounding in enumerate(groundings):
        colour = PALETTE[index % len(PALETTE)]
        if grounding.box is not None:
            draw_box(canvas, grounding.box, colour, dashed=grounding.task is Task.AMODAL)
            labels.append(_Label(grounding.expression, grounding.box, colour))
        else:
            outcome = grounding.outcome.value.lower().replace("_", " ")
            labels.append(_Label(f"{outcome}: {grounding.expression}", None, colour))
    _draw_labels(canvas, labels)
    return canvas


def draw_tracked(image_rgb: Image, boxes: Iterable[TrackedBox]) -> Image:
    """Draw carried boxes on a copy, with quality and name: a lost one dashed, an amodal box dashed beside its modal one.

    Args:
        image_rgb: [H, W, 3] uint8 RGB, the frame the boxes are in; left unchanged.
    """
    canvas = np.ascontiguousarray(image_rgb).copy()
    labels: list[_Label] = []
    for index, tracked in enumerate(boxes):
        colour, lost = PALETTE[index % len(PALETTE)], tracked.state is TrackState.LOST
        draw_box(canvas, tracked.box, colour, dashed=lost)
        if tracked.amodal_box is not None:
            draw_box(canvas, tracked.amodal_box, colour, dashed=True)
        labels.append(_Label(f"{'lost' if lost else f'{tracked.quality:.2f}'} {tracked.track_id}", tracked.box, colour))
    _draw_labels(canvas, labels)
    return canvas


def draw_box(image_rgb: Image, box: Box, colour: RGB, *, dashed: bool = False) -> None:
    """Draw one box in place.

    Args:
        image_rgb: [H, W, 3] uint8 RGB, contiguous.
        box: pixels of this image; may leave it.
        dashed: the style of an amodal box.
    """
    height, width = image_rgb.shape[:2]
    thickness = max(2, round(min(height, width) / 200))
    # A side far outside the image would overflow OpenCV's fixed-point lines; the visible part does not change.
    far = 2 * max(height, width)
    x1, y1, x2, y2 = (round(min(max(v, -far), far)) for v in box.xyxy)
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        if dashed:
            _draw_dashed(image_rgb, start, end, colour, thickness)
        else:
            cv2.line(image_rgb, start, end, colour, thickness, cv2.LINE_AA)


def _draw_dashed(image: Image, start: tuple[int, int], end: tuple[int, int], colour: RGB, thickness: int) -> None:
    a, b = np.array(start, float), np.array(end, float)
    length = float(np.hypot(*(b - a)))
    for offset in np.arange(0.0, length, DASH_PX + GAP_PX):
        p, q = (a + (b - a) * min(t, length) / length for t in (offset, offset + DASH_PX))
        cv2.line(image, _point(p), _point(q), colour, thickness, cv2.LINE_AA)


def _point(xy: NDArray[np.floating]) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


@dataclass(frozen=True, slots=True)
class _Label:
    """A text and the box it belongs to; None for an answer without a box, which is written at the bottom."""

    text: str
    box: Box | None
    colour: RGB


def _draw_labels(image: Image, labels: Sequence[_Label]) -> None:
    """White text on filled strips that stay inside the image and, where there is room, off each other."""
    height, width = image.shape[:2]
    text_px = max(13, round(height / 32))
    strip_px = text_px + 8
    taken: list[tuple[int, int, int, int]] = []
    for label in labels:
        text = " ".join(label.text.split())
        text = text if len(text) <= LABEL_MAX_CHARS else text[: LABEL_MAX_CHARS - 1] + "…"
        strip_width = _text_width_px(text, text_px) + 10
        left, tops = 4, [height - strip_px - 4 - i * strip_px for i in range(len(labels))]
        if label.box is not None:
            x1, y1, _, y2 = (round(min(max(v, 0.0), float(max(height, width)))) for v in label.box.xyxy)
            # above the box, below it, inside it, then higher and higher
            left, tops = x1, [y1 - strip_px, y2, y1, *(y1 - i * strip_px for i in range(2, 6))]
        x = max(0, min(left, width - strip_width))
        strips = [(x, max(0, min(top, height - strip_px)), x + strip_width, strip_px) for top in tops]
        strip = next((s for s in strips if not any(_overlap(s, other) for other in taken)), strips[0])
        taken.append(strip)
        x, y, right, _ = strip
        cv2.rectangle(image, (x, y), (right, y + strip_px), label.colour, cv2.FILLED)
        _put_text(image, text, (x + 5, y + strip_px - 6), text_px)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two strips (left, top, right, height) cover a common pixel."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


if hasattr(cv2, "FontFace"):  # OpenCV 5 draws every script; OpenCV 4 knows ASCII only
    _FONT = cv2.FontFace("uni")

    def _text_width_px(text: str, height_px: int) -> int:
        return int(cv2.getTextSize((0, 0), text, (0, 0), _FONT, height_px, 500)[2])

    def _put_text(image: Image, text: str, origin: tuple[int, int], height_px: int) -> None:
        cv2.putText(image, text, origin, WHITE, _FONT, height_px, 500)
else:

    def _text_width_px(text: str, height_px: int) -> int:
        return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, height_px / 28, 1)[0][0])

    def _put_text(image: Image, text: str, origin: tuple[int, int], height_px: int) -> None:
        scale = height_px / 28
        cv2.putText(image, _ascii(text), origin, cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, 1, cv2.LINE_AA)

    def _ascii(text: str) -> str:
        return text.replace("…", "...").encode("ascii", "replace").decode()


def check_save_path(path: str | Path) -> Path:
    """Return `path` if a picture can be saved there; say so before any work is done.

    Raises:
        InputError: unknown suffix, or `files.check_place` refuses it.
    """
    path = Path(path)
    if path.suffix.lower() not in SAVE_SUFFIXES:
        raise InputError(f"a picture name ending in {', '.join(SAVE_SUFFIXES)}", repr(path.name), "rename it")
    return check_place(path)


def save_image(path: str | Path, image_rgb: Image) -> None:
    """Write a PNG or JPEG under a temporary name and rename it, so that readers never see half a picture.

    Args:
        image_rgb: [H, W, 3] uint8 RGB.

    Raises:
        InputError: the path cannot be written (unknown suffix, no directory, no space, no permission).
    """
    path = check_save_path(path)
    parameters: Sequence[int] = () if path.suffix.lower() == ".png" else (cv2.IMWRITE_JPEG_QUALITY, 92)
    encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), parameters)[1]
    try:
        with whole_file(path, "wb") as stream:
            stream.write(encoded.tobytes())
    except OSError as error:
        raise InputError(f"to write {path}", error.strerror or str(error), "choose another place") from None
