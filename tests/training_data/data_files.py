"""Small data sets in the public formats, written to disk for the tests."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from egm_edge.boxes import Box
from egm_edge.data.rows import Row


def picture(root: Path, name: str, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """A picture of noise under `root`."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)
    return path


def jsonl(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row) + "\n") for row in rows), encoding="utf-8"
    )
    return path


def row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "id": "r1",
        "image": "coco/train2014/COCO_train2014_000000000001.jpg",
        "image_wh": (64, 48),
        "expression": "the red mug",
        "box": Box(8.0, 12.0, 40.0, 36.0),
        "dataset": "refcoco",
        "split": "train",
    }
    return Row(**(values | changes))


def generic(**changes: Any) -> dict[str, Any]:
    return row().to_dict() | changes


def egm_eval(**changes: Any) -> dict[str, Any]:
    values = {"image": "coco/train2014/COCO_train2014_000000000001.jpg", "sent": "red mug", "bbox": [8, 12, 40, 36]}
    return values | {"width": 64, "height": 48} | changes


def egm_train(**changes: Any) -> dict[str, Any]:
    question = "<image>\nLocate the red mug, output its bbox coordinates using JSON format."
    answer = (
        'It is the only red one.\n</think>\n\n```json\n[{"bbox_2d": [125, 250, 625, 750], "label": "the red mug"}]\n```'
    )
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    image = {"image": "coco/train2014/COCO_train2014_000000000001.jpg", "width": 64, "height": 48}
    return {"id": -1, **image, "conversations": turns} | changes


def refcoco_distribution(folder: Path, *, protocol: int = 2, split: str = "val") -> Path:
    """`refs(unc).p` with two references, three sentences; `instances.json` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "COCO_train2014_000000000001"
    refs = [
        {
            "ref_id": n,
            "ann_id": 100 + n,
            "image_id": 1,
            "category_id": 47,
            "file_name": f"{name}_{100 + n}.jpg",
            "split": split,
            "sent_ids": [10 * n + i for i in range(n)],
            "sentences": [
                {"sent_id": 10 * n + i, "sent": f"mug {'left' if i else 'red'}", "raw": "mug", "tokens": ["mug"]}
                for i in range(n)
            ],
        }
        for n in (1, 2)
    ]
    path = folder / "refs(unc).p"
    path.write_bytes(pickle.dumps(refs, protocol=protocol))
    instances = {
        "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 100 + n, "image_id": 1, "bbox": [8.0, 12.0, 32.0, 24.0]} for n in (1, 2)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    return path
