"""EmbeddingTable: token embeddings looked up outside the graphs, from a memory-mapped file.

Only the rows that a request touches ever become resident, so a 600 MB table costs a few MB.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import BundleError

_STORED_AS = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
RESIDENT_ROWS = 1024
RESCORE_MARGIN = 6.0  # logits this far below the best are left as the quantized head gave them


class EmbeddingTable:
    """Rows of embedding.npy, [V, H].

    Args:
        path: the .npy file.
        dtype: "float32", "float16", or "bfloat16" (raw bits in uint16).
    """

    def __init__(self, path: Path, dtype: str) -> None:
        if dtype not in _STORED_AS:
            raise BundleError(f"embedding_dtype {', '.join(_STORED_AS)}", repr(dtype), "rebuild the bundle")
        self._bits = dtype == "bfloat16"
        self._touched = 0
        try:
            self._table = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise BundleError(f"a NumPy array in {path}", str(error), "rebuild the bundle") from None
        if self._table.dtype != _STORED_AS[dtype] or self._table.ndim != 2:
            raise BundleError(
                f"{dtype} rows in {path}", f"{self._table.dtype} {self._table.shape}", "rebuild the bundle"
            )

        self._plain = self._table.view(np.ndarray)  # a memmap's own indexing costs as much again

    def rows(self, token_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings [n, H] of token ids."""
        rows = self._plain[np.asarray(token_ids, np.int64)]
        self._touched += len(rows)
        if self._touched > RESIDENT_ROWS:
            self._let_go()
        if self._bits:
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)

    def _let_go(self) -> None:
        """Unmap the pages read so far: the system maps 64 kB around every row, which would add up to the whole table."""
        self._touched = 0
        mapping = getattr(self._table, "_mmap", None)
        if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    def rescore(self, logits: NDArray[np.float32], hidden: NDArray[np.float32], count: int) -> None:
        """Replace the best logits of a quantized tied head by exact products, in place.

        Only candidates within `RESCORE_MARGIN` of the best are recomputed, `count` at most, so the ranking at the top is
        the full-precision head's at the cost of a few rows.

        Args:
            logits: [V]. hidden: [H], the decoder's normed output that gave them.
        """
        candidates = np.flatnonzero(logits > logits.max() - RESCORE_MARGIN)
        if len(candidates) > count:
            candidates = candidates[np.argpartition(logits[candidates], -count)[-count:]]
        logits[candidates] = self.rows(candidates) @ hidden
