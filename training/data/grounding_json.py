"""Grounding data in the forms that other projects train on, to rows.

    Shikra   one expression a line: `img_path`, `expression`, `bbox` (xyxy pixels), `height`, `width`, `dataset_name`
    ODVG     one picture a line (Grounding DINO): `filename`, `height`, `width`, `grounding.regions` of `phrase`, `bbox`
    MDETR    COCO-like JSON whose images carry a `caption`; annotations `bbox` (xywh); one expression an image entry
    LISA     ReasonSeg JSON, one file a picture: `text` (questions), `shapes` of labelled polygons; the target's bounds

Phrases that name several regions of a picture say of none of them which; they are passed over and counted. Boxes of
Shikra and ODVG are taken as written, in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egm_edge.boxes import Box
from egm_edge.data.jsonl import read_objects
from egm_edge.data.problems import Problem, collected
from egm_edge.data.rows import Row, box_from, box_from_xywh, settled_box, size_from, text_from
from egm_edge.errors import InputError
from egm_edge.files import read_json_object
from egm_edge.grounding import Task
from egm_edge.images import read_image_wh

SEVERAL = "phrases that name several regions"
_PICTURES = (".jpg", ".jpeg", ".png")


def read_shikra(path: Path, problems: list[Problem], skipped: Counter[str]) -> Iterator[Row]:
    """Rows of a REC jsonl of Shikra's."""
    for line, values in read_objects(path, problems):
        with collected(problems, path, line):
            image_wh = size_from(values.get("width"), values.get("height"))
            yield Row(
                id=f"{path.stem}:{line}",
                image=text_from(values, "img_path"),
                image_wh=image_wh,
                expression=text_from(values, "expression"),
                box=settled_box(box_from(values.get("bbox")), image_wh, Task.MODAL),
                dataset=str(values.get("dataset_name", "")),
                origin=f"{path}:{line}",
            )


def read_odvg(path: Path, problems: list[Problem], skipped: Counter[str]) -> Iterator[Row]:
    """Rows of an ODVG jsonl; lines of plain detection hold no phrases and are passed over."""
    for line, values in read_objects(path, problems):
        with collected(problems, path, line):
            grounding = values.get("grounding")
            if not isinstance(grounding, dict):
                skipped["lines of detection, without phrases"] += 1
                continue
            regions = _list(grounding, "regions")
            image_wh = size_from(values.get("width"), values.get("height"))
            phrases = Counter(_phrase(region).lower() for region in regions)
            for order, region in enumerate(regions):
                phrase, boxes = _phrase(region), region.get("bbox")
                if phrases[phrase.lower()] > 1 or (isinstance(boxes, list) and boxes and isinstance(boxes[0], list)):
                    skipped[SEVERAL] += 1
                    continue
                yield Row(
                    id=f"{path.stem}:{line}-{order}",
                    image=text_from(values, "filename"),
                    image_wh=image_wh,
                    expression=phrase,
                    box=settled_box(box_from(boxes), image_wh, Task.MODAL),
                    origin=f"{path}:{line}",
                )


def read_mdetr(path: Path, problems: list[Problem], skipped: Counter[str]) -> Iterator[Row]:
    """Rows of one of MDETR's files for referring expressions (`finetune_refcoco_train.json`)."""
    with collected(problems, path, 0, KeyError, TypeError, expected="images with captions, and annotations"):
        values = read_json_object(path)
        images = {image["id"]: image for image in values["images"]}
        annotations = _objects(values, "annotations")
        targets = Counter(annotation.get("image_id") for annotation in annotations)
        captioned = {"expected": "an annotation of a captioned image"}
        for number, annotation in enumerate(annotations, 1):
            with collected(problems, path, number, KeyError, TypeError, **captioned):
                image = images[annotation["image_id"]]
                if targets[annotation["image_id"]] > 1:
                    skipped[SEVERAL] += 1
                    continue
                image_wh = size_from(image["width"], image["height"])
                yield Row(
                    id=f"{path.stem}:{number}",
                    image=text_from(image, "file_name"),
                    image_wh=image_wh,
                    expression=text_from(image, "caption"),
                    box=settled_box(box_from_xywh(annotation["bbox"]), image_wh, Task.MODAL),
                    dataset=str(image.get("dataset_name", "")),
                    origin=f"{path}:{number}",
                )


def read_lisa(path: Path, problems: list[Problem], skipped: Counter[str]) -> Iterator[Row]:
    """Rows of one ReasonSeg file: one a question, its box the bounds of all polygons labelled "target"."""
    with collected(problems, path, 0, TypeError, ValueError, expected="polygons of [x, y] points"):
        values = read_json_object(path)
        texts = values.get("text")
        texts = [texts] if isinstance(texts, str) else _list(values, "text")
        shapes = [shape for shape in _objects(values, "shapes") if shape.get("label") == "target"]
        picture = next((path.with_suffix(end) for end in _PICTURES if path.with_suffix(end).is_file()), None)
        if picture is None:
            raise InputError("a picture beside it", f"no {path.stem}.jpg or .png", "copy the whole folder")
        if not shapes:
            skipped["questions without a target"] += len(texts)
            return
        points = [point for shape in shapes for point in _list(shape, "points")]
        image_wh = read_image_wh(picture, upright=True)
        xs, ys = zip(*((float(x), float(y)) for x, y in points), strict=True)
        box = settled_box(Box(min(xs), min(ys), max(xs), max(ys)), image_wh, Task.MODAL)
        for order, text in enumerate(texts):
            yield Row(
                id=f"{path.parent.name}-{path.stem}-{order}",
                image=f"{path.parent.name}/{picture.name}",
                image_wh=image_wh,
                expression=str(text),
                box=box,
                dataset="reasonseg",
                split=path.parent.name if path.parent.name in ("train", "val", "test") else "",
                origin=f"{path}:{order + 1}",
            )


def _list(values: dict[str, Any], key: str) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list):
        raise InputError(f"a list under {key!r}", repr(found)[:60], "check which file this is")
    return found


def _objects(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = _list(values, key)
    if odd := [item for item in found if not isinstance(item, dict)]:
        raise InputError(f"objects under {key!r}", repr(odd[0])[:60], "check which file this is")
    return found


def _phrase(region: Any) -> str:
    phrase = region.get("phrase") if isinstance(region, dict) else None
    if isinstance(phrase, list):  # mmdetection writes several spellings of one phrase
        phrase = phrase[0] if phrase else None
    if not isinstance(phrase, str):
        raise InputError("regions of phrase and bbox", repr(region)[:60], "check which file this is")
    return phrase
