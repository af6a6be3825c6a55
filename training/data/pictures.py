"""Pictures of rows: their size from the header, their pixels upright, and mirrored where the row says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError
from egm_edge.images import EXIF_ORIENTATION, load_image
from training.data.rows import Row

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def picture_wh(path: Path) -> tuple[int, int]:
    """Width and height, upright, from the header alone.

    Raises:
        InputError: no file, or not a picture.
    """
    from PIL import Image

    if not path.is_file():
        raise InputError("a picture", f"nothing at {path}", "check the image root")
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # Pillow raises almost anything on hostile bytes
        raise InputError("a JPEG, PNG, WebP or BMP picture", f"{path}: {str(error)[:120]}", "copy it again") from None
    return (height, width) if turned else (width, height)


def inside(root: Path, image: str) -> Path:
    """The picture's path, refused when it leaves the image root.

    Raises:
        InputError: an absolute path or one with `..`.
    """
    path = Path(image)
    if path.is_absolute() or ".." in path.parts or "\0" in image:
        raise InputError("a picture path inside the image root", repr(image[:120]), "make it relative to the root")
    return root / path


def load_picture(row: Row, root: Path) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB, upright, mirrored if the row says so.

    Raises:
        InputError: no such picture, damaged, or not of the row's size.
    """
    image = load_image(inside(root, row.image))
    found = (image.shape[1], image.shape[0])
    if found != row.image_wh:
        raise InputError(
            f"{row.image} of {row.image_wh[0]}x{row.image_wh[1]} pixels ({row.origin or row.id})",
            f"{found[0]}x{found[1]}",
            "use the pictures that the boxes were drawn on",
        )
    return np.ascontiguousarray(image[:, ::-1]) if row.mirrored else image
