"""Where the simulated camera's pictures come from: a drawn tabletop with its truth, a video, a folder, a webcam.

Knows nothing of ROS. A source gives the picture of a moment; only the tabletop knows what is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.synthetic.trajectories import sample_motion
from egm_edge.webcam import read_camera

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MAX_PICTURE_PIXELS = 33_177_600  # 7680 x 4320
MAX_DRAWN_BYTES = 1_500_000_000


@dataclass(frozen=True, slots=True)
class TrueObject:
    """One object of a drawn picture.

    Attributes:
        name: what to call it, "the red mug".
        modal: bounds of its visible pixels; None when nothing of it is visible.
        amodal: bounds of all of it; may leave the picture.
        visible: part of it that is visible, 0-1.
    """

    name: str
    modal: Box | None
    amodal: Box
    visible: float


@dataclass(frozen=True, slots=True, eq=False)
class SourcePicture:
    """One picture: [H, W, 3] uint8 in `color` order, and its truth; None where nobody knows it."""

    array: NDArray[np.uint8]
    color: str
    truth: tuple[TrueObject, ...] | None = None


class PictureSource(Protocol):
    """Gives picture after picture."""

    def picture(self, index: int) -> SourcePicture | None:
        """The picture of tick `index` (0, 1, …); None at the end."""
        ...

    def close(self) -> None: ...


class TabletopSource:
    """A tabletop drawn by `egm_edge.synthetic`, played forwards and backwards for ever.

    Everything is drawn before the first picture, so that a 30 Hz camera costs next to nothing while it runs.

    Args:
        seed, motion: which sequence; the same ones are the same pictures on every machine.
        size_wh: pixels.
        rate_hz: pictures per second of scene time.
        seconds: length of one way.

    Raises:
        InputError: an unknown motion, or more pictures than fit in memory.
    """

    def __init__(self, seed: int, motion: str, size_wh: tuple[int, int], rate_hz: float, seconds: float) -> None:
        width, height = size_wh
        count = max(2, round(seconds * rate_hz))
        if count * width * height * 3 > MAX_DRAWN_BYTES:
            found = f"{count} pictures of {width}x{height}"
            raise InputError(f"at most {MAX_DRAWN_BYTES / 1e9:g} GB of pictures", found, "lower seconds or the size")
        scene = sample_motion(seed, motion, aspect=width / height, seconds=seconds)
        names = [f"the {thing.colour} {thing.shape}" for thing in scene.scene.objects]
        self.target_name = scene.expression
        self._pictures: list[SourcePicture] = []
        for index in range(count):
            shot = scene.frame(index / rate_hz, width, height)
            truth = tuple(TrueObject(*row) for row in zip(names, shot.modal, shot.amodal, shot.visible, strict=True))
            self._pictures.append(SourcePicture(shot.image, "rgb", truth))

    def picture(self, index: int) -> SourcePicture:
        return self._pictures[there_and_back(index, len(self._pictures))]

    def close(self) -> None:
        self._pictures.clear()


def there_and_back(index: int, count: int) -> int:
    """0, 1, … count-1, count-2, … 1, 0, 1, …: no picture twice in a row, no jump."""
    position = index % max(1, 2 * count - 2)
    return position if position < count else 2 * count - 2 - position


@dataclass(slots=True)
class FolderSource:
    """The pictures of a folder in the order of their names.

    Args:
        folder: where they are.
        size_wh: scale them to this; (0, 0) keeps each one's own size.
        loop: begin again at the end.
    """

    folder: Path
    size_wh: tuple[int, int] = (0, 0)
    loop: bool = True
    _paths: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.folder.is_dir():
            self._paths = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not self._paths:
            raise InputError(f"a folder with {', '.join(IMAGE_SUFFIXES)} files", str(self.folder), "set path:=FOLDER")

    def picture(self, index: int) -> SourcePicture | None:
        if index >= len(self._paths) and not self.loop:
            return None
        path = self._paths[index % len(self._paths)]
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError("a picture that OpenCV can read", str(path), "remove it from the folder")
        return SourcePicture(_sized(image, self.size_wh), "bgr")

    def close(self) -> None:
        self._paths.clear()


class VideoSource:
    """A video file, or a webcam by its number, through OpenCV.

    Args:
        where: path of the file, or number of the device.
        size_wh: scale to this; (0, 0) keeps the size.
        loop: begin a file again at its end.
    """

    def __init__(self, where: str | int, size_wh: tuple[int, int] = (0, 0), loop: bool = True) -> None:
        self._where, self._size_wh, self._loop = where, size_wh, loop
        self._capture = cv2.VideoCapture(where)
        if isinstance(where, int) and min(size_wh) > 0:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size_wh[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size_wh[1])
        if not self._capture.isOpened():
            hint = "check path:=FILE" if isinstance(where, str) else "check device:=N and who may open /dev/videoN"
            raise InputError("a video that OpenCV can open", repr(where), hint)

    def picture(self, index: int) -> SourcePicture | None:
        if isinstance(self._where, int):
            return SourcePicture(_sized(read_camera(self._capture, f"webcam {self._where}"), self._size_wh), "bgr")
        got, image = self._capture.read()
        if not got and self._loop and index > 0:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            got, image = self._capture.read()
        return SourcePicture(_sized(image, self._size_wh), "bgr") if got and image is not None else None

    def close(self) -> None:
        self._capture.release()


def _sized(image: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width * height > MAX_PICTURE_PIXELS:
        raise InputError(f"at most {MAX_PICTURE_PIXELS} pixels", f"{width}x{height}", "choose a smaller picture")
    if min(size_wh) <= 0 or (width, height) == size_wh:
        return np.ascontiguousarray(image)
    smaller = size_wh[0] < width
    return np.ascontiguousarray(
        cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    )
