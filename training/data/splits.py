"""Which split a row may be used for: `train` rows train, `val` rows validate, test rows do neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from egm_edge.data.rows import Row
from egm_edge.errors import InputError

TRAIN, VALIDATION = "train", "val"


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
