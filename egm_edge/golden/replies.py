"""GoldenReply: one request with the reference's reply, box and likeliest logits; how they lie in a bundle.

golden/replies.json, golden/N.png, golden/logits.npz. Knows nothing of engines. Notation: r reply tokens, K kept logits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.bundle import GOLDEN, Bundle
from egm_edge.errors import BundleError
from egm_edge.grounding import Task

INDEX, LOGITS = f"{GOLDEN}replies.json", f"{GOLDEN}logits.npz"
KEPT = 16
MAX_REPLIES, MAX_INDEX_BYTES, MAX_PICTURE_BYTES, MAX_LOGITS_BYTES = 64, 1 << 20, 16 << 20, 64 << 20
_REBUILD = "rebuild the bundle"


@dataclass(frozen=True, slots=True)
class GoldenReply:
    """One request and what the checkpoint answers, run by transformers in float32.

    Attributes:
        picture: PNG bytes.
        text: the reply, special tokens left out. token_ids: its tokens without the end token.
        box: xyxy, pixels of the picture; None where the reply gives none.
        top_ids, log_probabilities: [r + 1, K] the likeliest tokens after the request and after each reply token, and their
            natural logarithms.
    """

    picture: bytes
    expression: str
    task: Task
    text: str
    token_ids: tuple[int, ...]
    box: tuple[float, float, float, float] | None
    top_ids: NDArray[np.int32]
    log_probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """A bundle's golden replies.

    Attributes:
        against: what the reference was.
        limits: how far an engine of the bundle's precision may be: kl_nats (mean), disagreeing (share of boxes, IoU < 0.5),
            same_text (1.0 where every reply must be the very same, else 0.0).
        max_new_tokens: cap of every reply.
    """

    replies: tuple[GoldenReply, ...]
    against: str
    limits: Mapping[str, float]
    max_new_tokens: int


def top_logits(logits: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `KEPT` likeliest tokens of each row of logits [n, V], likeliest first, and their log-probabilities."""
    kept = min(KEPT, logits.shape[1])
    ids = np.argpartition(logits, -kept, axis=-1)[:, -kept:]
    values = log_softmax_at(logits, ids)
    order = np.argsort(-values, axis=-1, kind="stable")
    return np.take_along_axis(ids, order, -1).astype(np.int32), np.take_along_axis(values, order, -1)


def log_softmax_at(logits: NDArray[np.float32], ids: NDArray[Any]) -> NDArray[np.float32]:
    """Log-probabilities of tokens `ids` [n, K] under logits [n, V]."""
    wide = logits.astype(np.float64)
    most = wide.max(-1, keepdims=True)
    total = most + np.log(np.exp(wide - most).sum(-1, keepdims=True))
    return np.asarray(np.take_along_axis(wide, ids.astype(np.int64), -1) - total, np.float32)


def write_golden(root: Path, golden: GoldenSet) -> None:
    """Write the golden folder of a bundle that is being built under `root`; equal sets give equal bytes."""
    (root / GOLDEN).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    pictures: dict[bytes, str] = {}
    for i, reply in enumerate(golden.replies):
        name = pictures.setdefault(reply.picture, f"{len(pictures)}.png")
        (root / GOLDEN / name).write_bytes(reply.picture)
        row = {"picture": name, "expression": reply.expression, "task": reply.task.value, "text": reply.text}
        rows.append(row | {"token_ids": list(reply.token_ids), "box": list(reply.box) if reply.box else None})
        arrays |= {f"ids_{i}": reply.top_ids, f"log_{i}": reply.log_probabilities.astype(np.float16)}
    values = {
        "against": golden.against,
        "limits": dict(golden.limits),
        "max_new_tokens": golden.max_new_tokens,
        "replies": rows,
    }
    (root / INDEX).write_text(json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    np.savez(root / LOGITS, **arrays)  # type: ignore[arg-type]  # numpy's stub knows no **dict


def has_golden(bundle: Bundle) -> bool:
    return INDEX in bundle.manifest.files


def read_golden(bundle: Bundle) -> GoldenSet:
    """The bundle's golden replies.

    Raises:
        BundleError: it has none, or they cannot be used.
    """
    if not has_golden(bundle):
        verify = f"build it where torch and transformers are, or run `egm verify {bundle.root} --reference CHECKPOINT`"
        raise BundleError("golden replies in the bundle", "none", verify)
    try:
        values = json.loads(_bounded(bundle, INDEX, MAX_INDEX_BYTES))
        _bounded(bundle, LOGITS, MAX_LOGITS_BYTES)
        with np.load(bundle.path(LOGITS), allow_pickle=False) as arrays:
            replies = [_reply(bundle, i, row, arrays) for i, row in enumerate(values["replies"][:MAX_REPLIES])]
        limits = {str(name): float(value) for name, value in values["limits"].items()}
        return GoldenSet(tuple(replies), str(values["against"]), limits, int(values["max_new_tokens"]))
    except (KeyError, TypeError, ValueError, OSError, AttributeError, RecursionError) as error:
        raise BundleError(f"golden replies in {bundle.root}", f"{type(error).__name__}: {error}", _REBUILD) from None


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height as a PNG's header says."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def _reply(bundle: Bundle, number: int, row: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> GoldenReply:
    picture = _bounded(bundle, f"{GOLDEN}{row['picture']}", MAX_PICTURE_BYTES)
    box: Sequence[float] | None = row["box"]
    ids, log = arrays[f"ids_{number}"].astype(np.int32), arrays[f"log_{number}"].astype(np.float32)
    if ids.shape != log.shape or ids.ndim != 2 or len(ids) != len(row["token_ids"]) + 1:
        raise ValueError(f"logits of reply {number} in another shape")
    return GoldenReply(
        picture, str(row["expression"]), Task.parse(row["task"]), str(row["text"]),
        tuple(int(token) for token in row["token_ids"]),
        None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3])), ids, log,
    )  # fmt: skip


def _bounded(bundle: Bundle, name: str, most: int) -> bytes:
    path = bundle.path(name)
    if path.stat().st_size > most:
        raise ValueError(f"{name} is larger than {most} bytes")
    return path.read_bytes()
