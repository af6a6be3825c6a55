"""Pictures of rows: where they lie, their pixels upright, mirrored where the row says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from egm_edge.data.rows import Row
from egm_edge.encoding import png
from egm_edge.errors import InputError
from egm_edge.images import load_image, plain_media_type

FOLDERS = ("", "coco", "images")  # EGM's rows say "coco/train2014/…", the original distribution "train2014/…"


def find_picture(image: str, roots: Sequence[Path]) -> Path:
    """The file of a picture that a row names.

    Args:
        roots: folders to look under, in order; also their `coco` and `images` folders, the name without its first
            folder where a root is that folder, and the bare file name.

    Raises:
        InputError: no such file, or a name that points outside the roots.
    """
    name = PurePosixPath(image)
    if name.is_absolute() or ".." in name.parts or "\0" in image or not name.name:
        raise InputError("a picture path inside the image root", repr(image[:120]), "make it relative to the root")
    for tail in dict.fromkeys((image, "/".join(name.parts[1:]), name.name)):
        for root in roots if tail else ():
            for folder in FOLDERS:
                if (path := root / folder / tail).is_file():
                    return path
    where = ", ".join(map(str, roots))
    raise InputError("a picture", f"nothing at {image} under {where}", "check the image root")


def find_pictures(rows: Iterable[Row], roots: Sequence[Path]) -> dict[str, Path]:
    """Where each row's picture is.

    Raises:
        InputError: pictures are missing, or a name points outside the roots; counted, with the first shown.
    """
    found: dict[str, Path] = {}
    missing = []
    for image in dict.fromkeys(row.image for row in rows):
        try:
            found[image] = find_picture(image, roots)
        except InputError:
            missing.append(image)
    if missing:
        where = ", ".join(map(str, roots))
        raise InputError(
            f"every picture under {where}",
            f"{len(missing)} of {len(missing) + len(found)} missing, first {missing[0]!r}",
            "pass their folder with --images DIR",
        )
    return found


def load_picture(row: Row, *roots: Path) -> NDArray[np.uint8]:
    """As `picture_of`, wherever the row's picture lies. Raises: InputError: no such picture."""
    return picture_of(row, find_picture(row.image, roots))


def picture_of(row: Row, path: Path) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB, upright, mirrored if the row says so.

    Raises:
        InputError: damaged, or not of the row's size.
    """
    image = load_image(path)
    require_size((image.shape[1], image.shape[0]), row)
    return np.ascontiguousarray(image[:, ::-1]) if row.mirrored else image


def require_size(found_wh: tuple[int, int], row: Row) -> None:
    """The picture must have the size that the row states, if it states one.

    Raises:
        InputError: another size.
    """
    if row.image_wh is not None and found_wh != row.image_wh:
        raise InputError(
            f"{row.image} of {row.image_wh[0]}x{row.image_wh[1]} pixels, as row {row.origin or row.id} says",
            f"{found_wh[0]}x{found_wh[1]}",
            "use the pictures that the boxes were drawn on",
        )


def encoded(path: Path, *, mirrored: bool = False) -> tuple[bytes, str, tuple[int, int]]:
    """A picture for a server: its bytes, their media type, and its width and height when upright.

    The file's own bytes wherever every server reads them alike (`egm_edge.images.plain_media_type`); any other, and a
    mirrored one, is sent as the pixels that a bundle is given, as PNG.

    Raises:
        InputError: it cannot be read as a picture.
    """
    array = load_image(path)
    image_wh = (array.shape[1], array.shape[0])
    data = path.read_bytes()
    if not mirrored and (media_type := plain_media_type(data)):
        return data, media_type, image_wh
    return png(array[:, ::-1] if mirrored else array), "image/png", image_wh
