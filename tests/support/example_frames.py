"""Write sample frames with expressions and true boxes, `python -m tests.support.example_frames examples`: drawn ones into
`frames/`, household ones into `household/`.

Knows nothing of models. The seeds lie outside every training and evaluation range.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import cv2

from egm_edge.boxes import Box
from egm_edge.synthetic.household import render_household, sample_household
from egm_edge.synthetic.queries import queries
from egm_edge.synthetic.query import World
from egm_edge.synthetic.render import render
from egm_edge.synthetic.sample import sample_scene

SEEDS: tuple[int, ...] = (990_000_003, 990_000_004, 990_000_007, 990_000_011, 990_000_014, 990_000_018)


HOUSEHOLD_KINDS = {"attribute": 0.3, "superlative": 0.2, "ordinal": 0.2, "relation": 0.3}
HOUSEHOLD_SEEDS: tuple[int, ...] = (990_100_003, 990_100_005, 990_100_006, 990_100_007, 990_100_008, 990_100_009)


def write_examples(folder: Path, *, household: bool, width_px: int = 640, height_px: int = 480) -> None:
    """Write `tabletop_N.png` or `household_N.jpg`, and `expressions.json` (boxes xyxy, pixels of the frame)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {}
    for number, seed in enumerate(HOUSEHOLD_SEEDS if household else SEEDS, 1):
        scene: World
        if household:
            indoors = sample_household(seed, (4, 6), split="test")
            scene, picture, kinds = indoors, render_household(indoors, width_px, height_px), HOUSEHOLD_KINDS
        else:
            drawn = sample_scene(seed, (2, 4))
            scene, picture, kinds = drawn, render(drawn, width_px, height_px), None
        name = f"household_{number}.jpg" if household else f"tabletop_{number}.png"
        cv2.imwrite(str(folder / name), picture.image[..., ::-1])
        rows[name] = []
        for query in queries(scene, random.Random(seed), where=picture.layout, count=3, weights=kinds, amodal=0.2):
            truth = Box.from_norm1000(query.box_norm1000, width_px, height_px) if query.box_norm1000 else None
            box = [round(v, 1) for v in truth.xyxy] if truth else None
            rows[name].append(
                {"expression": query.expression, "task": query.task.value, "kind": query.kind, "box_xyxy_px": box}
            )
    (folder / "expressions.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    write_examples(Path(sys.argv[1], "frames"), household=False)
    write_examples(Path(sys.argv[1], "household"), household=True)
