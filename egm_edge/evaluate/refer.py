"""RefCOCO, RefCOCO+ and RefCOCOg as their authors distribute them: `refs(BY).p` with `instances.json` beside it.

One row a sentence; the `train` split is left out. Annotation boxes are xywh pixels. The folder's name is the data set's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from egm_edge.errors import InputError
from egm_edge.evaluate.plain_pickle import load_plain_pickle
from egm_edge.evaluate.query_kind import query_kind
from egm_edge.evaluate.rows import EvaluationRow, box_px
from egm_edge.grounding import Task
from egm_edge.request import check_expression

MAX_INSTANCES_BYTES = 2 << 30
PICTURE_FOLDER = "train2014"  # all three data sets are drawn on COCO's 2014 training pictures


def read_refer(refs_path: Path, task: Task | None = None) -> list[EvaluationRow]:
    """Evaluation rows of one refs pickle, in file order.

    Raises:
        InputError: a file is missing, unsafe or damaged, or a reference does not fit its annotations.
    """
    refs = load_plain_pickle(refs_path)
    boxes, pictures = _instances(refs_path.with_name("instances.json"))
    dataset = refs_path.resolve().parent.name
    rows = []
    try:
        for ref in refs:
            if ref["split"] == "train":
                continue
            picture = pictures[ref["image_id"]]
            x, y, width, height = boxes[ref["ann_id"]]
            for sentence in ref["sentences"]:
                expression = check_expression(sentence["sent"])
                rows.append(
                    EvaluationRow(
                        id=f"{dataset}-{sentence['sent_id']}",
                        image=f"{PICTURE_FOLDER}/{picture['file_name']}",
                        image_wh=(int(picture["width"]), int(picture["height"])),
                        expression=expression,
                        box=box_px([x, y, x + width, y + height]),
                        task=task or Task.MODAL,
                        dataset=dataset,
                        split=str(ref["split"]),
                        kind=query_kind(expression),
                    )
                )
    except (KeyError, TypeError, ValueError) as error:
        found = f"reference {len(rows)} with {type(error).__name__}: {error}"
        raise InputError(
            f"references that fit instances.json in {refs_path}", found, "use one distribution's files"
        ) from None
    if not rows:
        raise InputError(f"val or test references in {refs_path}", "none", "check the file")
    return rows


def _instances(path: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    try:
        if path.stat().st_size > MAX_INSTANCES_BYTES:
            raise InputError(f"{path} of at most {MAX_INSTANCES_BYTES >> 30} GiB", "a larger one", "check the file")
        values = json.loads(path.read_bytes())
        boxes = {annotation["id"]: annotation["bbox"] for annotation in values["annotations"]}
        return boxes, {picture["id"]: picture for picture in values["images"]}
    except OSError as error:
        raise InputError(
            "instances.json beside the refs", f"{path}: {error.strerror}", "copy the whole distribution"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"COCO annotations in {path}", f"{type(error).__name__}: {error}", "copy the file again"
        ) from None
