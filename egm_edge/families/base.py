"""What differs between model families, as two values: PromptSpec (texts) and Family (rules).

The only owner of prompt texts and position ids. Knows nothing of engines or image files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.grounding import Task
from egm_edge.pixels import Pixels


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """Everything that decides the prompt's characters; hashed, and carried from checkpoint to robot.

    The prompt of a request is `prefix`, the task text, `suffix`, concatenated. `prefix` and `suffix` are the
    checkpoint's own chat template, rendered once when the bundle is built, so the robot needs no template engine.

    Attributes:
        family: "qwen3_vl" or "internvl3".
        modal, amodal: task text with `{expression}` where the expression goes, raw as typed.
        prefix: chat text before the task text; holds `image_token` exactly once, expanded per image.
        suffix: chat text after it, up to where generation starts (an opening `<think>` included if the template adds it).
        image_token: the pad token's text.
        answer_syntax: "bbox_2d_json" or "ref_box".
    """

    family: str
    modal: str
    amodal: str
    prefix: str
    suffix: str
    image_token: str
    answer_syntax: str

    def task_text(self, expression: str, task: Task) -> str:
        template = self.amodal if task is Task.AMODAL else self.modal
        return template.replace("{expression}", expression)

    @property
    def hash(self) -> str:
        return canonical_hash(asdict(self))


def canonical_hash(values: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of a spec: sorted keys, no blanks, UTF-8."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Family(Protocol):
    """Rules of one model family."""

    name: str

    def prefix_token_ids(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> list[int]:
        """`prefix_ids` (the tokenised prefix, one image token in it) with that token repeated for this image."""

    def positions(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> NDArray[np.int64]:
        """Rotary position ids [3, n] (time, height, width) of the expanded prefix.

        The tokens that follow a prefix are text: all three axes go on from `positions.max() + 1`.
        """
