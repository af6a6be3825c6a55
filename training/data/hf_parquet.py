"""RefCOCO, RefCOCO+ and RefCOCOg as lmms-lab publishes them on Hugging Face: parquet with the pictures inside.

One object a line: `image` {bytes, path}, `answer` (its expressions), `bbox` (xywh pixels), `file_name` (COCO's, with the
object's number behind it), `question_id`. The split stands in the file's name (`testA-00000-of-00001.parquet`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egm_edge.data.problems import Problem, collected
from egm_edge.data.rows import Row, box_from_xywh, settled_box
from egm_edge.errors import InputError
from egm_edge.files import make_folder, unwritable, whole_file
from egm_edge.grounding import Task
from egm_edge.images import load_image

COLUMNS = ("question_id", "image", "answer", "bbox", "file_name")
_FILE = re.compile(r"^(train|val|validation|testA|testB|test)-\d+-of-\d+", re.IGNORECASE)
_COCO = re.compile(r"(COCO_(train2014|val2014)_\d{12})(?:_\d+)?\.jpg$")
_SETS = {"refcoco": "refcoco", "refcocoplus": "refcoco+", "refcoco+": "refcoco+", "refcocog": "refcocog"}
_GROUP = 64


def read_hf_parquet(
    path: Path, problems: list[Problem], skipped: Counter[str], *, pictures: Path | None = None
) -> Iterator[Row]:
    """Rows of one parquet, one an expression; whatever is wrong is collected with the line's number.

    Args:
        pictures: folder that the pictures in the file are written under, by the names that the rows give them; None
            leaves them where they are (COCO's own files serve as well).

    Raises:
        InputError: a picture cannot be written.
    """
    named = _FILE.search(path.name)
    split = named.group(1) if named else ""
    split = "val" if split.lower() == "validation" else split
    dataset = next((name for part in reversed(path.parts) if (name := _SETS.get(part.lower()))), "")
    wrong, expected = (AttributeError, TypeError, ValueError), "an object with a picture, expressions and a box"
    for number, values in enumerate(_objects(path, problems), 1):
        rows: list[Row] = []
        with collected(problems, path, number, *wrong, expected=expected):
            for row in _rows(values, dataset, split, f"{path}:{number}"):
                rows.append(row)  # those before one that is wrong stay
            skipped["objects without an expression"] += not rows
        if rows and pictures is not None:
            _keep(pictures / rows[0].image, values["image"]["bytes"])
        yield from rows


def _objects(path: Path, problems: list[Problem]) -> Iterator[dict[str, Any]]:
    """The lines of a parquet, as far as it can be read."""
    import pyarrow.parquet as pq

    with collected(problems, path, 0, Exception, expected="a whole parquet file"):  # Arrow raises its own kinds
        table = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in table.schema_arrow.names]
        if missing:
            raise InputError(f"columns {', '.join(COLUMNS)}", f"no {', '.join(missing)}", "check which file this is")
        for batch in table.iter_batches(batch_size=_GROUP, columns=list(COLUMNS)):
            yield from batch.to_pylist()


def _rows(values: dict[str, Any], dataset: str, split: str, origin: str) -> Iterator[Row]:
    image, texts = values["image"] or {}, values["answer"] or []
    data, name = image.get("bytes"), Path(str(values["file_name"] or image.get("path") or "")).name
    if not data or name in ("", ".."):
        raise InputError("a picture with bytes and a file_name", repr(name)[:60], "download the file again")
    if not isinstance(texts, list):
        raise InputError("a list of expressions under 'answer'", repr(texts)[:60], "check which file this is")
    coco = _COCO.search(name)
    height, width, _ = load_image(data).shape
    box = settled_box(box_from_xywh(values["bbox"]), (width, height), Task.MODAL)
    for order, text in enumerate(text for text in texts if isinstance(text, str) and text.strip()):
        yield Row(
            id=f"{dataset or 'parquet'}-{split}-{values['question_id']}-{order}",
            image=f"coco/{coco.group(2)}/{coco.group(1)}.jpg" if coco else f"images/{name}",
            image_wh=(width, height),
            expression=text,
            box=box,
            dataset=dataset,
            split=split,
            origin=origin,
        )


def _keep(path: Path, picture: bytes) -> None:
    if path.is_file():
        return
    make_folder(path.parent)
    try:
        with whole_file(path, "wb") as stream:
            stream.write(picture)
    except OSError as error:
        raise unwritable(path.parent, error) from None
