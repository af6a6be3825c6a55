"""Read the sentences that EGM's published clients send back into an expression and a task. Knows only prompt texts.

A checkpoint answers best in the sentence it was trained with; clients of other families, and the model card's own example,
ask in another one. `read_sentence` recognises them, so that a server can ask in the bundle's own words.
"""

from __future__ import annotations

import re

from egm_edge.families.registry import FAMILIES
from egm_edge.grounding import Task

UNMISTAKABLE_CHARS = 40
_REF_TAGS = re.compile(r"</?ref>")


def _pattern(template: str) -> re.Pattern[str]:
    """A template's sentence, with or without <ref> tags, final period, surrounding space, and (as lmms-eval's RefCOCO task
    has it) instructions before a sentence that nobody says by chance."""
    before, _, after = _REF_TAGS.sub("", template).partition("{expression}")
    instructions = r"(?:.{1,600}?[.:!\n]\s)??" if len(before) >= UNMISTAKABLE_CHARS else ""
    return re.compile(
        rf"{instructions}\s*{re.escape(before.rstrip())}\s*(?:<ref>)?(?P<expression>.+?)(?:</ref>)?{re.escape(after)}\s*\.?\s*",
        re.DOTALL,
    )


# Amodal first: "Locate X amodally, output ..." would also read as the modal sentence about "X amodally".
_SENTENCES = [
    *((_pattern(family.amodal), Task.AMODAL) for family in FAMILIES),
    *((_pattern(family.modal), Task.MODAL) for family in FAMILIES),
]


def read_sentence(text: str) -> tuple[str, Task] | None:
    """The expression and task that a client's sentence asks for, or None when it is no sentence of EGM's.

    Example:
        >>> read_sentence("Please provide the bounding box coordinate of the region this sentence describes: the red mug.")
        ('the red mug', <Task.MODAL: 'modal'>)
    """
    for pattern, task in _SENTENCES:
        if found := pattern.fullmatch(text):
            return found["expression"].strip(), task
    return None
