"""A few rollouts of a step as text and picture, so that a person sees what the reward rewards.

OUTPUT/rollouts/step-000010.jsonl       row, expression, target, and every answer with its boxes, reward and text
OUTPUT/rollouts/step-000010-ROW.jpg     the picture with the target (green) and the answers' boxes (orange)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cv2

from egm_edge.boxes import Box
from egm_edge.data.jsonl import write_objects
from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from training.rewards.answer import ReadAnswer

SHOWN = 2  # questions of a step
TARGET_BGR, ANSWER_BGR = (115, 158, 0), (0, 94, 213)


class RolloutLog:
    """Writes the first questions of every `every`-th step; a step is written once, by the process that made it."""

    def __init__(self, folder: Path, rows: Sequence[Row], images: Path, every: int) -> None:
        self._folder, self._images, self._every = folder, images, every
        self._rows = {row.id: row for row in rows}
        self._written = -1

    def __call__(
        self, step: int, row_ids: Sequence[str], answers: Sequence[ReadAnswer], scores: Sequence[float]
    ) -> None:
        """Note the answers of one batch.

        Args:
            step: optimiser steps done. row_ids, answers, scores: one each a completion, those of a question together.
        """
        if not self._every or step % self._every or step == self._written:
            return
        self._written = step
        lines = []
        for row_id in list(dict.fromkeys(row_ids))[:SHOWN]:
            row = self._rows[row_id]
            group = [(a, s) for i, a, s in zip(row_ids, answers, scores, strict=True) if i == row_id]
            lines.append(
                {
                    "row": row_id,
                    "expression": row.expression,
                    "target_norm1000": row.box_norm1000,
                    "answers": [
                        {
                            "score": round(s, 4),
                            "box_norm1000": a.parsed.box_norm1000,
                            "tokens": a.token_count,
                            "text": a.text,
                        }
                        for a, s in group
                    ],
                }
            )
            name = re.sub(r"[^\w.-]+", "_", row_id)[:80]
            self._draw(row, [answer for answer, _ in group], self._folder / f"step-{step:06d}-{name}.jpg")
        write_objects(self._folder / f"step-{step:06d}.jsonl", lines)

    def _draw(self, row: Row, answers: Sequence[ReadAnswer], path: Path) -> None:
        canvas = load_picture(row, self._images)[:, :, ::-1].copy()
        found = [answer.parsed.box_norm1000 for answer in answers]
        boxes = [(Box.from_norm1000(box, *row.size_wh), ANSWER_BGR) for box in found if box is not None]
        boxes += [(row.box, TARGET_BGR)] if row.box else []
        for box, colour in boxes:
            x1, y1, x2, y2 = (round(v) for v in box.xyxy)
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), canvas)
