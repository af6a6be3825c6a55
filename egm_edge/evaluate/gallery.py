"""The gallery: the worst answers of a run as one self-contained HTML page, target and answer drawn on the picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from egm_edge.encoding import jpeg
from egm_edge.errors import InputError
from egm_edge.evaluate.records import Record
from egm_edge.images import load_image
from egm_edge.reporting.page import page, paragraph

WORST = 24
SIDE_PX = 480
JPEG_QUALITY = 80
TEXT_CHARS = 1500
TARGET_COLOUR, ANSWER_COLOUR = "#009e73", "#d55e00"


def worst(records: Sequence[Record]) -> list[Record]:
    """The worst answers, WORST at most, at the largest budget: boxes on negatives and answers without a box first, then by IoU."""
    budget = max((r.budget for r in records), default=0)
    wrong = [r for r in records if r.budget == budget and not _right(r)]
    return sorted(wrong, key=lambda r: (r.iou or 0.0, r.box is not None, r.id))[:WORST]


def gallery(records: Sequence[Record], pictures: Mapping[str, Path], mirrored: frozenset[str] = frozenset()) -> str:
    """The page.

    Args:
        records: what to show, in order. pictures: image name -> file. mirrored: ids of rows whose picture is mirrored.
    """
    legend = "Green, dashed: target. Orange: answer. Worst first, at the largest token budget."
    cards = [_card(r, pictures.get(r.image), r.id in mirrored) for r in records]
    body = "".join(cards) if cards else paragraph("No wrong answers.")
    return page("Worst answers", [paragraph(legend), f'<div class="cards">{body}</div>'])


def _right(record: Record) -> bool:
    return record.box is None if record.target is None else (record.iou or 0.0) > 0.5


def _card(record: Record, picture: Path | None, mirrored: bool) -> str:
    iou = "nothing to find" if record.iou is None else f"IoU {record.iou:.2f}"
    cut = f", cut by {record.cut}" if record.cut else ""
    facts = f"{iou}, {record.outcome}{cut}, {record.task}, {record.kind}, {record.tokens.completion} tokens, {record.id}"
    return (
        f'<div class="card">{_drawing(record, picture, mirrored)}<p><b>{escape(record.expression)}</b></p>'
        f"<p>{escape(facts)}</p><details><summary>answer</summary><pre>{escape(record.text[:TEXT_CHARS])}</pre></details></div>"
    )


def _drawing(record: Record, picture: Path | None, mirrored: bool) -> str:
    width, height = record.image_wh
    stroke = max(width, height) / 160
    shapes = [
        f'<rect x="{x1:.2f}" y="{y1:.2f}" width="{x2 - x1:.2f}" height="{y2 - y1:.2f}" fill="none" stroke="{colour}"'
        f' stroke-width="{stroke:.1f}"{dash}/>'
        for box, colour, dash in (
            (record.target, TARGET_COLOUR, f' stroke-dasharray="{3 * stroke:.1f}"'),
            (record.box, ANSWER_COLOUR, ""),
        )
        if box is not None
        for x1, y1, x2, y2 in [box]
    ]
    data = _jpeg(picture, mirrored) if picture else ""
    image = f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>' if data else ""
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="picture">{image}{"".join(shapes)}</svg>'


def _jpeg(picture: Path, mirrored: bool) -> str:
    try:
        image = load_image(picture)
    except InputError:
        return ""
    image = image[:, ::-1] if mirrored else image
    scale = min(1.0, SIDE_PX / max(image.shape[:2]))
    size_wh = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(np.ascontiguousarray(image), size_wh, interpolation=cv2.INTER_AREA)
    return base64.b64encode(jpeg(np.asarray(small, np.uint8), JPEG_QUALITY)).decode()
