"""What differs between model families, as two values: PromptSpec (texts) and Family (rules).

The only owner of prompt texts and position ids. Knows nothing of engines or image files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import BundleError, InputError
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
        chosen_box: the word that a thought writes before the number of the box it settles on, in the list of those it names
            ("target" in "target 2"); "" where thoughts have no such word. Decides no answer, only what is drafted.
    """

    family: str
    modal: str
    amodal: str
    prefix: str
    suffix: str
    image_token: str
    answer_syntax: str
    chosen_box: str = ""

    @property
    def in_thought(self) -> bool:
        """The chat template opens a thought, so that a reply begins inside it."""
        return self.suffix.rstrip().endswith("<think>")

    def task_text(self, expression: str, task: Task) -> str:
        template = self.amodal if task is Task.AMODAL else self.modal
        return template.replace("{expression}", expression)

    @property
    def hash(self) -> str:
        return canonical_hash(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, the basis of the hash; `chosen_box` only where there is one."""
        return {name: value for name, value in asdict(self).items() if name != "chosen_box" or value}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptSpec:
        """Inverse of `to_dict`; unknown and missing keys are an error."""
        names = {f.name for f in fields(cls)}
        if values.keys() | {"chosen_box"} != names:
            odd = ", ".join(sorted((values.keys() | {"chosen_box"}) ^ names))
            raise BundleError("a prompt spec of this version", f"missing or unknown keys {odd}", "rebuild the bundle")
        return cls(**values)


class Family(Protocol):
    """Rules of one model family.

    Attributes:
        name: this project's name of it, as it stands in PromptSpec and bundles.
        model_type: what config.json of its checkpoints says.
        modal, amodal, answer_syntax, image_token: as in PromptSpec.
    """

    name: str
    model_type: str
    modal: str
    amodal: str
    answer_syntax: str
    image_token: str

    def image_span(self, rendered_token: str) -> str:
        """What the processor puts where the chat template wrote the image token, that token still once in it."""

    def prefix_token_ids(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> list[int]:
        """`prefix_ids` (the tokenised prefix, one image token in it) with that token repeated for this image."""

    def positions(self, prefix_ids: Sequence[int], image_token_id: int, pixels: Pixels) -> NDArray[np.int64]:
        """Rotary position ids [3, n] (time, height, width) of the expanded prefix.

        `prefix_ids` may be expanded already or not. The tokens that follow a prefix are text: all three axes go on from
        `positions.max() + 1`.
        """


def locate_image_token(prefix_ids: Sequence[int], image_token_id: int, image_token_count: int) -> tuple[int, int]:
    """How many tokens stand before and after the image in a tokenised prefix, expanded or not.

    Raises:
        InputError: the image token does not stand there once, or as one run of `image_token_count`.
    """
    ids = list(prefix_ids)
    found = ids.count(image_token_id)
    before = ids.index(image_token_id) if found else 0
    run = ids[before : before + found]
    if found not in (1, image_token_count) or run != [image_token_id] * found or not found:
        raise InputError(
            f"image token {image_token_id} once, or in one run of {image_token_count}, in the prefix",
            f"{found} of them",
            "tokenise the prefix of this checkpoint's own PromptSpec",
        )
    return before, len(ids) - before - found


def expand_image_token(prefix_ids: Sequence[int], image_token_id: int, image_token_count: int) -> list[int]:
    """The tokenised prefix with its image token repeated `image_token_count` times; unchanged when it already is."""
    before, after = locate_image_token(prefix_ids, image_token_id, image_token_count)
    ids = list(prefix_ids)
    return [*ids[:before], *[image_token_id] * image_token_count, *ids[len(ids) - after :]]


__all__ = ["Family", "PromptSpec", "expand_image_token", "locate_image_token"]
