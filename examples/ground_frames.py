"""Ground the sentences of a folder of frames and set every box beside the true one.

    python examples/ground_frames.py BUNDLE FRAMES_DIR OUT_DIR

FRAMES_DIR holds pictures and expressions.json: {picture: [{expression, task, box_xyxy_px}, ...]}. Annotated copies go to
OUT_DIR. All sentences of a picture share one frame, so only the first pays for the vision tower.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from egm_edge.boxes import Box
from egm_edge.draw import draw_groundings, save_image
from egm_edge.errors import EgmError
from egm_edge.grounder import Grounder
from egm_edge.images import load_image


def main(bundle_dir: Path, frames_dir: Path, out_dir: Path) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    rows = json.loads((frames_dir / "expressions.json").read_text(encoding="utf-8"))
    ious: list[float] = []
    with Grounder.from_bundle(bundle_dir) as grounder:
        grounder.warm_up()
        for name, queries in rows.items():
            frame = grounder.frame(frames_dir / name)
            print(f"{name}")
            groundings = []
            for query in queries:
                grounding = grounder.ground(frame, query["expression"], task=query["task"])
                groundings.append(grounding)
                iou = grounding.box.iou(Box(*query["box_xyxy_px"])) if grounding.box else 0.0
                ious.append(iou)
                box = " ".join(f"{v:5.0f}" for v in grounding.box.xyxy) if grounding.box else grounding.outcome.value
                time_ms = f"{grounding.timings.total_ms:5.0f} ms"
                print(f"  {box:<23}  IoU {iou:.2f}  {time_ms}  {grounding.task.value:<6}  {grounding.expression}")
            save_image(out_dir / name, draw_groundings(load_image(frames_dir / name), groundings))
    hits = sum(iou >= 0.5 for iou in ious)
    print(f"{hits} of {len(ious)} boxes with IoU >= 0.5, mean IoU {np.mean(ious):.2f}; pictures in {out_dir}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(f"usage: {sys.argv[0]} BUNDLE FRAMES_DIR OUT_DIR")
    try:
        main(*map(Path, sys.argv[1:]))
    except EgmError as error:
        raise SystemExit(f"egm: {error}") from None
