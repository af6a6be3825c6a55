"""Replies that are known word for word, through the whole pipeline: a backend that says them token by token, and the boxes
that must come of it. So decoding, parsing and geometry are checked whether or not a checkpoint has learned to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engine.parity.witnesses import OTHERS_FIRST, SCRIPTED_BOXES, SCRIPTS, THOUGHT, in_pixels
from egm_edge.backends.base import Capabilities, RuntimeFacts
from egm_edge.bundle import Bundle
from egm_edge.bundle_from_checkpoint import MAX_NEW_TOKENS
from egm_edge.errors import EgmError
from egm_edge.grounder import Grounder
from egm_edge.grounding import Task

SCRIPT_HW = (300, 700)
TOLERANCE_PX = 0.01
# Lead of the script's tokens; where nothing forces it, so little that only the greedy choice keeps to it, and no temperature.
CLEAR, BARE = 20.0, 1e-4


def script_problems(bundle: Bundle, tokenizer: Tokenizer) -> list[str]:
    """What the pipeline makes of scripted replies, where it is not their box."""
    problems, family = [], bundle.manifest.family
    limits = {**bundle.manifest.limits, "max_new_tokens": MAX_NEW_TOKENS}  # a bundle's own may be shorter than these replies
    bundle = Bundle(bundle.root, replace(bundle.manifest, limits=limits))
    thinking = str(bundle.manifest.prompt_spec["suffix"]).rstrip().endswith("<think>")
    picture = np.zeros((*SCRIPT_HW, 3), np.uint8)
    ends = cycle([[token] for token in bundle.manifest.model["stop_token_ids"]] or [[]])
    for task in Task:
        for numbers in SCRIPTED_BOXES:
            forced = [(SCRIPTS, True)] * (min(numbers) >= 0)  # forced syntax writes plain numbers only
            for script, force_syntax in ((SCRIPTS, False), (OTHERS_FIRST, False), *forced):
                text = (f"{THOUGHT}\n</think>\n\n" if thinking else "") + script[family].format(*numbers)
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                expected, end = in_pixels(numbers, (SCRIPT_HW[1], SCRIPT_HW[0]), task), next(ends)
                try:
                    engine = _Script([*ids, *end], bundle, CLEAR if force_syntax else BARE)
                    grounder = Grounder(engine, bundle, tokenizer)
                    with grounder.answers_unjudged():
                        answer = grounder.ground(picture, "cup", color="rgb", task=task, force_syntax=force_syntax)
                except EgmError as error:
                    return [f"a scripted reply ends in: {error}"]
                if end and not force_syntax and answer.truncated_by:
                    problems.append(f"a reply does not end at token {end[0]}")
                found = None if answer.box is None else answer.box.xyxy
                if found is None or max(abs(a - b) for a, b in zip(found, expected, strict=True)) > TOLERANCE_PX:
                    problems.append(
                        f"a reply that says {list(numbers)} of {task.value} gives {found} instead of {expected}"
                    )
    return problems


@dataclass(slots=True)
class _ScriptFrame:
    prefix_token_count: int
    image_token_count: int
    vision_ms: float = 0.0
    prefill_ms: float = 0.0


@dataclass(slots=True)
class _ScriptSession:
    """Logits that spell a reply, whatever was fed before it; end token last."""

    script: Sequence[int]
    vocabulary: int
    prefix: int
    lead: float
    opening: int = -1  # where the reply begins: behind the first tokens that are fed
    fed: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.prefix + len(self.fed)

    def extend(self, token_ids: Sequence[int], *, every_position: bool = False) -> NDArray[np.float32]:
        start = len(self.fed)
        self.fed += token_ids
        self.opening = len(self.fed) if self.opening < 0 else self.opening
        logits = np.zeros((len(token_ids), self.vocabulary), np.float32)
        for row in range(len(token_ids)):
            at = min(max(start + row + 1 - self.opening, 0), len(self.script) - 1)
            logits[row, self.script[at]] = self.lead
        return logits if every_position else logits[-1]

    def truncate(self, length: int) -> None:
        del self.fed[length - self.prefix :]


class _Script:
    """A Backend that knows one reply."""

    capabilities = Capabilities()
    facts = RuntimeFacts("script")

    def __init__(self, ids: Sequence[int], bundle: Bundle, lead: float) -> None:
        self._script, self._lead = ids, lead
        self._vocabulary = int(bundle.manifest.model["vocab_size"])

    def open_frame(self, pixels: object, prefix_ids: Sequence[int]) -> _ScriptFrame:
        return _ScriptFrame(len(prefix_ids), getattr(pixels, "image_token_count", 0))

    def open_session(self, frame: object) -> _ScriptSession:
        return _ScriptSession(self._script, self._vocabulary, getattr(frame, "prefix_token_count", 0), self._lead)

    def arm(self) -> None: ...

    def interrupt(self) -> None: ...

    def disarm(self) -> None: ...

    def close(self) -> None: ...
