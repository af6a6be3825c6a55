"""Held-out scenes as data that any model can be evaluated on: pictures, and rows in this project's evaluation form.

The questions are those of `training.nano.evaluate`'s suites; their seeds lie above every training seed. One question a
scene, so that rows are independent. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.files import replace_text, unwritable
from training.nano.evaluate import AMODAL, EASY, FRAME_WH, MODAL, NEGATIVE, Suite, SuiteCase, frame_of

DATASET = "tabletop"
SUITES: dict[str, Suite] = {"easy": EASY, "modal": MODAL, "amodal-occluded": AMODAL, "negative": NEGATIVE}


def write_held_out(
    folder: Path, count: int, names: list[str], told: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write `count` questions of each suite; a suite's rows come last, so that rows never lack their pictures.

    Args:
        names: of SUITES. told: (pictures done, all pictures).

    Returns:
        One jsonl a suite: per line id, image, expression, box (xyxy pixels; null when it is not there; of amodal rows the
        amodal box), task, kind, dataset, split, width, height, seed.

    Raises:
        InputError: an unknown suite, or a folder that cannot be written.
    """
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise InputError(f"suites of {', '.join(SUITES)}", repr(unknown[0]), "correct --suites")
    done, paths = 0, []
    for name in dict.fromkeys(names):
        lines: list[str] = []
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for row, case in _rows(name, count):
                (folder / row["image"]).write_bytes(cv2.imencode(".png", frame_of(case)[..., ::-1])[1].tobytes())
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
                done += 1
                if told:
                    told(done, count * len(names))
        except OSError as error:
            raise unwritable(folder, error) from None
        paths.append(folder / f"{name}.jsonl")
        replace_text(paths[-1], "".join(lines))
    return paths


def _rows(name: str, count: int) -> Iterator[tuple[dict[str, Any], SuiteCase]]:
    width, height = FRAME_WH
    for case in SUITES[name].cases(count):
        query = case.query
        box = Box.from_norm1000(query.box_norm1000, width, height) if query.box_norm1000 else None
        row = {
            "id": f"{name}-{case.seed}",
            "image": f"{name}/{case.seed}.png",
            "expression": query.expression,
            "box": [round(v, 2) for v in box.xyxy] if box else None,
            "task": query.task.value,
            "kind": query.kind,
            "dataset": DATASET,
            "split": name,
            "width": width,
            "height": height,
            "seed": case.seed,
        }
        yield row, case
