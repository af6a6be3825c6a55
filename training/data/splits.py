"""Which split a row may be used for: `train` rows train, `val` rows validate, test rows do neither."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from training.data.leaks import picture_key

TRAIN, VALIDATION = "train", "val"
SPLITS = (TRAIN, VALIDATION, "test", "testA", "testB")


def by_split(rows: Iterable[Row], val_share: float | None = None) -> dict[str, list[Row]]:
    """Rows by split, in order; test splits stay apart.

    Args:
        val_share: move this share of the training *pictures*, with all their rows, to `val`: chosen by the picture's name,
            so always the same ones, mirrored copies with their originals. None moves none.

    Raises:
        InputError: a row without a split, or a share that is none.
    """
    if val_share is not None and not 0.0 < val_share < 1.0:
        raise InputError("--val between 0 and 1", f"{val_share:g}", "pass for example --val 0.02")
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if not row.split:
            raise InputError(
                "a split on every row", f"none at {row.origin or row.id}", "egm data convert --split train"
            )
        split = row.split
        if val_share is not None and split == TRAIN:
            drawn = int.from_bytes(hashlib.sha256(picture_key(row.image).encode()).digest()[:8], "big") / 2**64
            split = VALIDATION if drawn < val_share else TRAIN
        parts.setdefault(split, []).append(replace(row, split=split))
    return parts


def require_split(rows: Iterable[Row], split: str, setting: str) -> None:
    """Every row is of one split.

    Args:
        setting: the key of the configuration that named the rows, for the message.

    Raises:
        InputError: rows of another split or of none, counted, with the first shown.
    """
    others = [row for row in rows if row.split != split]
    if others:
        counts = Counter(row.split or "no split" for row in others)
        found = ", ".join(f"{count} of {name}" for name, count in counts.most_common())
        raise InputError(
            f"rows of `{split}` splits only in {setting}",
            f"{found} (first at {others[0].origin or others[0].id})",
            "write each split to a file of its own with: egm data split",
        )
