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
from egm_edge.errors import EgmError, InputError
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
    """
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in table.schema_arrow.names]
        if missing:
            raise InputError(f"columns {', '.join(COLUMNS)}", f"no {', '.join(missing)}", "check which file this is")
    except EgmError as error:
        problems.append(Problem(str(path), 0, error.expected, error.found))
        return
    except Exception as error:  # Arrow raises its own kinds
        problems.append(Problem(str(path), 0, "a parquet file", f"{type(error).__name__}: {str(error)[:100]}"))
        return
    named = _FILE.search(path.name)
    split = named.group(1) if named else ""
    split = "val" if split.lower() == "validation" else split
    dataset = next((name for part in reversed(path.parts) if (name := _SETS.get(part.lower()))), "")
    number = 0
    for batch in table.iter_batches(batch_size=_GROUP, columns=list(COLUMNS)):
        for values in batch.to_pylist():
            number += 1
            origin = f"{path}:{number}"
            with collected(problems, path, number):
                yield from _rows(values, dataset, split, origin, pictures, skipped)


def _rows(
    values: dict[str, Any], dataset: str, split: str, origin: str, pictures: Path | None, skipped: Counter[str]
) -> Iterator[Row]:
    image = values["image"] or {}
    data, name = image.get("bytes"), str(values["file_name"] or image.get("path") or "")
    if not data or not name:
        raise InputError("a picture with bytes and a file_name", repr(name)[:60], "download the file again")
    coco = _COCO.search(name)
    name = f"coco/{coco.group(2)}/{coco.group(1)}.jpg" if coco else f"images/{Path(name).name}"
    height, width, _ = load_image(data).shape
    if pictures is not None and not (pictures / name).is_file():
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(data)
    box = settled_box(box_from_xywh(values["bbox"]), (width, height), Task.MODAL)
    texts = [text for text in values["answer"] or [] if isinstance(text, str) and text.strip()]
    skipped["objects without an expression"] += not texts
    for order, text in enumerate(texts):
        yield Row(
            id=f"{dataset or 'parquet'}-{split}-{values['question_id']}-{order}",
            image=name,
            image_wh=(width, height),
            expression=text,
            box=box,
            dataset=dataset,
            split=split,
            origin=origin,
        )
