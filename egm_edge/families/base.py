"""What differs between model families, as two values: PromptSpec (texts) and Family (rules).

The only owner of prompt texts and position ids. Knows nothing of engines or image files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import BundleError
from egm_edge.grounding import Task
from egm_edge.hashing import canonical_hash
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
        return canonical_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, the basis of the hash."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptSpec:
        """Inverse of `to_dict`; unknown and missing keys are an error."""
        names = {f.name for f in fields(cls)}
        if values.keys() != names:
            odd = ", ".join(sorted(values.keys() ^ names))
            raise BundleError("a prompt spec of this version", f"missing or unknown keys {odd}", "rebuild the bundle")
        return cls(**values)


class Family(Protocol):
    """Rules of one model family."""

    name: str

    def prefix_token_ids(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> list[int]:
        """`prefix_ids` (the tokenised prefix, one image token in it) with that token repeated for this image."""

    def positions(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> NDArray[np.int64]:
        """Rotary position ids [3, n] (time, height, width) of the expanded prefix.

        The tokens that follow a prefix are text: all three axes go on from `positions.max() + 1`.
        """


__all__ = ["Family", "PromptSpec", "canonical_hash"]
