"""Rows as one parquet of verl's layout: prompt with an image mark, the picture itself, the target as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.encoding import png
from egm_edge.files import whole_file

ROWS_PER_GROUP = 256
IMAGE_MARK = "<image>"


def write_parquet(path: Path, rows: Sequence[Row], texts: Sequence[str], images: Path, split: str) -> None:
    """Write in row groups, so that pictures need not fit into memory; the file appears when it is whole.

    Args:
        texts: the user's text of each row.
    """
    import pyarrow as pa
    from pyarrow import parquet

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    extra = pa.struct([("index", pa.int64()), ("split", pa.string()), ("id", pa.string())])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("images", pa.list_(pa.struct([("bytes", pa.binary())]))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", extra),
        ]
    )
    with whole_file(path, "wb") as stream, parquet.ParquetWriter(stream, schema) as writer:
        for start in range(0, len(rows), ROWS_PER_GROUP):
            chunk = list(_parquet_rows(rows, texts, images, split, start))
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _parquet_rows(
    rows: Sequence[Row], texts: Sequence[str], images: Path, split: str, start: int
) -> Iterator[dict[str, Any]]:
    for index in range(start, min(start + ROWS_PER_GROUP, len(rows))):
        row = rows[index]
        # Encoded anew, without loss: verl then sees the upright, mirrored pixels that the row means.
        truth = json.dumps({"box_norm1000": row.box_norm1000, "task": row.task.value})
        yield {
            "data_source": "grounding",
            "prompt": [{"role": "user", "content": IMAGE_MARK + texts[index]}],
            "images": [{"bytes": png(load_picture(row, images))}],
            "ability": "grounding",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"index": index, "split": split, "id": row.id},
        }
