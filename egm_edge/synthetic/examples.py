"""Write sample frames with expressions and true boxes: `python -m egm_edge.synthetic.examples examples/frames`.

Knows nothing of models. The seeds lie outside every training and evaluation range.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import cv2

from egm_edge.boxes import Box
from egm_edge.synthetic.queries import queries
from egm_edge.synthetic.render import render
from egm_edge.synthetic.sample import sample_scene

SEEDS: tuple[int, ...] = (990_000_003, 990_000_004, 990_000_007, 990_000_011, 990_000_014, 990_000_018)


def write_examples(folder: Path, width_px: int = 640, height_px: int = 480) -> None:
    """Write `tabletop_N.png` and `expressions.json` (boxes xyxy, pixels of the frame; null when it is not there)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, object]]] = {}
    for number, seed in enumerate(SEEDS, 1):
        scene = sample_scene(seed, (2, 4))
        picture = render(scene, width_px, height_px)
        name = f"tabletop_{number}.png"
        cv2.imwrite(str(folder / name), picture.image[..., ::-1])
        rows[name] = []
        for query in queries(scene, random.Random(seed), where=picture.layout, count=3, amodal=0.2):
            truth = Box.from_norm1000(query.box_norm1000, width_px, height_px) if query.box_norm1000 else None
            box = [round(v, 1) for v in truth.xyxy] if truth else None
            rows[name].append(
                {"expression": query.expression, "task": query.task.value, "kind": query.kind, "box_xyxy_px": box}
            )
    (folder / "expressions.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    write_examples(Path(sys.argv[1]))
