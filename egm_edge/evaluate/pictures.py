"""Finds the pictures that rows name, before anything is spent on them. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from egm_edge.errors import InputError
from egm_edge.evaluate.rows import EvaluationRow

FOLDERS = ("", "coco", "images")  # EGM's rows say "coco/train2014/…", the original distribution "train2014/…"


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
