"""COCO-Amodal style annotations to rows with an amodal and, where given, a modal box.

Two layouts: COCOA (`regions` of polygons with `visible_mask`), and flat annotations with an amodal and a modal xywh box
(TAO-Amodal: `amodal_bbox` + `bbox`; COCOA-cls and D2SA: `bbox` + `inmodal_bbox`). The sets come without expressions:
rows take `expressions` or `sentences` where someone has added them, else the region's or the category's name if the object
is the only one of it in the picture; other objects are passed over and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from egm_edge.boxes import Box
from egm_edge.data.problems import Problem, collected
from egm_edge.data.rows import Row, box_from_xywh, settled_box, size_from
from egm_edge.errors import InputError
from egm_edge.files import read_json_object
from egm_edge.grounding import Task

MOST_COUNT_BITS = 60


def is_coco_amodal(values: dict[str, Any]) -> bool:
    """True for an annotation file in one of the layouts."""
    annotations = values.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    return isinstance(first, dict) and any(key in first for key in ("regions", "amodal_bbox", "inmodal_bbox"))


def read_coco_amodal(
    path: Path, problems: list[Problem], skipped: Counter[str], *, image_folder: str = ""
) -> Iterator[Row]:
    """Amodal rows of one annotation file; whatever is wrong is collected with the annotation's number."""
    with collected(problems, path, 0, KeyError, TypeError, expected="images and annotations"):
        values = read_json_object(path)
        pictures = {p["id"]: p for p in values["images"]}
        objects = list(_objects(values))
        categories = {c.get("id"): str(c.get("name", "")) for c in values.get("categories") or [] if isinstance(c, dict)}
        named = [(number, image_id, item, name_of(item, categories)) for number, image_id, item in objects]
        names = Counter((image_id, name.lower()) for _, image_id, _, name in named)
        wrong, expected = (KeyError, TypeError, ValueError, IndexError), "an annotation with an amodal box"
        for number, image_id, item, name in named:
            texts = _expressions(item, name if names[image_id, name.lower()] == 1 else "")
            if not texts:
                skipped["objects that share their name with another" if name else "objects without a name"] += 1
            for index, text in enumerate(texts):
                with collected(problems, path, number, *wrong, expected=expected):
                    yield _row(item, pictures.get(image_id), text, index, path, number, image_folder)


def _objects(values: dict[str, Any]) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """(annotation number from 1, image id, object)."""
    for number, annotation in enumerate(values["annotations"], 1):
        if "regions" in annotation:
            for order, region in enumerate(annotation["regions"]):
                yield number, annotation["image_id"], {"id": f"{annotation['id']}-{order}", **region}
        else:
            yield number, annotation["image_id"], annotation


def name_of(item: dict[str, Any], categories: dict[Any, str]) -> str:
    """What an object is called: its own name, else its category's in words; "" for stuff.

    Example:
        >>> name_of({"category_id": 3}, {3: "baseball_bat"}), name_of({"category_id": 4}, {4: "car_(automobile)"})
        ('baseball bat', 'car')
    """
    name = item.get("name")
    if not isinstance(name, str) or not name.strip():
        name = re.sub(r"_?\([^)]*\)", "", categories.get(item.get("category_id"), "")).replace("_", " ")
    return "" if item.get("isStuff") else name.strip()


def _expressions(item: dict[str, Any], name: str) -> list[str]:
    given = item.get("expressions", item.get("sentences"))
    if isinstance(given, list):
        return [str(text.get("sent", "")) if isinstance(text, dict) else str(text) for text in given]
    return [name] if name else []


def _row(item: dict[str, Any], picture: Any, text: str, index: int, path: Path, number: int, folder: str) -> Row:
    if picture is None:
        raise InputError("an image_id that stands in images", "an unknown one", "check the file")
    image_wh = size_from(picture["width"], picture["height"])
    amodal, modal = _boxes(item, image_wh)
    return Row(
        id=f"{path.stem}-{item['id']}-{index}",
        image=f"{folder}/{picture['file_name']}" if folder else str(picture["file_name"]),
        image_wh=image_wh,
        expression=text,
        box=amodal,
        task=Task.AMODAL,
        modal_box=settled_box(modal, image_wh, Task.MODAL) if modal else None,
        dataset="coco-amodal",
        origin=f"{path}:{number}",
    )


def _boxes(item: dict[str, Any], image_wh: tuple[int, int]) -> tuple[Box, Box | None]:
    """Amodal and modal box, pixels."""
    if "amodal_bbox" in item:
        return box_from_xywh(item["amodal_bbox"]), box_from_xywh(item["bbox"]) if item.get("bbox") else None
    if "inmodal_bbox" in item:
        return box_from_xywh(item["bbox"]), box_from_xywh(item["inmodal_bbox"])
    amodal = _polygon_bounds(item["segmentation"])
    if item.get("visible_mask"):
        return amodal, mask_bounds(item["visible_mask"], image_wh)
    return amodal, amodal.clipped(*image_wh) if not item.get("occlude_rate") else None


def _polygon_bounds(polygon: Any) -> Box:
    """Round one polygon x1, y1, x2, y2, …, or all of several."""
    parts = polygon if polygon and isinstance(polygon[0], list) else [polygon]
    points = np.concatenate([np.asarray(part, np.float64).reshape(-1, 2) for part in parts])
    (x1, y1), (x2, y2) = points.min(0), points.max(0)
    return Box(float(x1), float(y1), float(x2), float(y2))


def mask_bounds(mask: dict[str, Any], image_wh: tuple[int, int]) -> Box | None:
    """The box round a COCO run-length mask (column-major, counts a list or COCO's compressed text); None when empty.

    Example:
        >>> mask_bounds({"size": [4, 5], "counts": [5, 2, 13]}, (5, 4))
        Box(x1=1.0, y1=1.0, x2=2.0, y2=3.0)
    """
    height, width = (int(v) for v in mask["size"])
    if (width, height) != tuple(image_wh):
        raise InputError(f"a mask of {image_wh[0]}x{image_wh[1]}", f"{width}x{height}", "check the annotation")
    counts = mask["counts"] if isinstance(mask["counts"], list) else decompress_counts(str(mask["counts"]))
    if sum(counts) > width * height or any(c < 0 for c in counts):
        raise InputError(f"runs of at most {width * height} pixels", f"{sum(counts)}", "check the annotation")
    ends = [int(end) for end in accumulate(counts)]
    runs = [(start, end - 1) for start, end in zip(ends[::2], ends[1::2], strict=False) if end > start]
    if not runs:
        return None
    top, bottom = min(first % height for first, _ in runs), max(last % height for _, last in runs)
    if any(first // height != last // height for first, last in runs):  # it goes on at the top of the next column
        top, bottom = 0, height - 1
    return Box(float(runs[0][0] // height), float(top), float(runs[-1][1] // height + 1), float(bottom + 1))


def decompress_counts(text: str) -> list[int]:
    """COCO's compressed run lengths (cocoapi, maskApi.c: rleFrString).

    Five bits a character, least significant first; from the third on, each is a difference to the run two before.

    Raises:
        InputError: a run longer than any picture.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if shift > MOST_COUNT_BITS:
            raise InputError(f"run lengths of at most {MOST_COUNT_BITS} bits", "a longer one", "check the annotation")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
