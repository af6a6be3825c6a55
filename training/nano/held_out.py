"""Held-out scenes as data that any model can be evaluated on: pictures, and rows in this project's evaluation form.

The questions are those of `training.nano.suites`; their seeds lie above every training seed. One question a
scene, so that rows are independent. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from egm_edge.boxes import Box
from egm_edge.encoding import png
from egm_edge.errors import InputError
from egm_edge.files import replace_text, unwritable
from egm_edge.synthetic.household import build_sprites
from training.nano.suites import TABLE, SuiteCase

DATASET = "tabletop"


FIT_OFFSET = -50_000_000


def write_held_out(
    folder: Path, count: int, names: list[str], told: Callable[[int, int], None] | None = None, *, seed_offset: int = 0
) -> list[Path]:
    """Write `count` questions of each suite; a suite's rows come last, so that rows never lack their pictures.

    Args:
        names: of `suites.TABLE`. told: (pictures done, all pictures).
        seed_offset: moves every suite's seeds: FIT_OFFSET for scenes to fit a confidence on, apart from training and testing.

    Returns:
        One jsonl a suite: per line id, image, expression, box (xyxy pixels; null when it is not there; of amodal rows the
        amodal box), task, kind, dataset, split, width, height, seed.

    Raises:
        InputError: an unknown suite, or a folder that cannot be written.
    """
    unknown = [name for name in names if name not in TABLE]
    if unknown:
        raise InputError(f"suites of {', '.join(TABLE)}", repr(unknown[0]), "correct --suites")
    if any(TABLE[name].split for name in names):
        build_sprites(solid=any(TABLE[name].solid for name in names))
    done, paths = 0, []
    for name in dict.fromkeys(names):
        lines: list[str] = []
        try:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for row, case in _rows(name, count, seed_offset):
                (folder / row["image"]).write_bytes(png(case.frame()))
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
                done += 1
                if told:
                    told(done, count * len(names))
        except OSError as error:
            raise unwritable(folder, error) from None
        paths.append(folder / f"{name}.jsonl")
        replace_text(paths[-1], "".join(lines))
    return paths


def _rows(name: str, count: int, seed_offset: int) -> Iterator[tuple[dict[str, Any], SuiteCase]]:
    suite = replace(TABLE[name], first_seed=TABLE[name].first_seed + seed_offset)
    width, height = suite.frame_wh
    for case in suite.cases(count):
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
