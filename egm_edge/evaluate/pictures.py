"""Finds the pictures that rows name, before anything is spent on them, and encodes them for servers. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from egm_edge.errors import InputError
from egm_edge.evaluate.rows import EvaluationRow
from egm_edge.images import EXIF_ORIENTATION, load_image

FOLDERS = ("", "coco", "images")  # EGM's rows say "coco/train2014/…", the original distribution "train2014/…"

SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def find_pictures(rows: Sequence[EvaluationRow], roots: Sequence[Path]) -> dict[str, Path]:
    """Where each row's picture is.

    Args:
        roots: folders to look under, in order; also their `coco` and `images` folders, and the bare file name.

    Raises:
        InputError: pictures are missing, or a name points outside the roots; counted, with the first shown.
    """
    found: dict[str, Path] = {}
    missing = []
    for name in dict.fromkeys(row.image for row in rows):
        candidates = [root / folder / part for part in (name, Path(name).name) for root in roots for folder in FOLDERS]
        inside = (p for p in candidates if p.is_file() and any(p.resolve().is_relative_to(r.resolve()) for r in roots))
        path = next(inside, None)
        if path is None:
            missing.append(name)
        else:
            found[name] = path
    if missing:
        where = ", ".join(map(str, roots))
        raise InputError(
            f"every picture under {where}", f"{len(missing)} of {len(missing) + len(found)} missing, first {missing[0]!r}",
            "pass their folder with --images DIR",
        )  # fmt: skip
    return found


def encoded(path: Path, *, mirrored: bool = False) -> tuple[bytes, str, tuple[int, int]]:
    """A picture for a server: its bytes, their media type, and its width and height when upright.

    The file's own bytes wherever every server reads them alike; mirrored, turned by its EXIF tag or of another format, it
    is sent upright as PNG, without loss.

    Raises:
        InputError: it cannot be read as a picture.
    """
    array = load_image(path)
    image_wh = (array.shape[1], array.shape[0])
    with Image.open(path) as header:
        kind, turned = header.format or "", header.getexif().get(EXIF_ORIENTATION, 1) != 1
    if kind in SENT_AS_THEY_ARE and not (mirrored or turned):
        return path.read_bytes(), SENT_AS_THEY_ARE[kind], image_wh
    upright = np.ascontiguousarray((array[:, ::-1] if mirrored else array)[..., ::-1])
    return cv2.imencode(".png", upright)[1].tobytes(), "image/png", image_wh
