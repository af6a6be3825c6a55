"""From an expression to prompt tokens: control tokens come from the template, never from what a user typed.

Needs only `tokenizers`. Knows nothing of images: the prefix keeps its single image token, which a Family expands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tokenizers import Tokenizer

from egm_edge.errors import CheckpointError
from egm_edge.families.base import PromptSpec
from egm_edge.grounding import Task

_TAG = re.compile(r"<[^<>\s]+>")


def encode_prompt(tokenizer: Tokenizer, spec: PromptSpec, expression: str, task: Task) -> tuple[list[int], list[int]]:
    """Token ids of the prefix (one image token, not yet expanded) and of the request (task text and suffix).

    The same ids as transformers' processor gives for the same message, except that text inside the expression which looks
    like a control token ("<|im_end|>", "<think>") stays text. `egm_edge.expression.check_expression` refuses such text before
    it comes here; this is the second fence.
    """
    template = spec.task_text("{expression}", task)
    before, _, after = template.partition("{expression}")
    after += spec.suffix
    text = before + expression + after
    typed = range(len(before), len(before) + len(expression))
    request_ids: list[int] = []
    for piece in _without_typed_control_tokens(text, typed, control_tokens(tokenizer)):
        request_ids += tokenizer.encode(piece, add_special_tokens=False).ids
    return prefix_ids(tokenizer, spec), request_ids


def encode_user_text(tokenizer: Tokenizer, spec: PromptSpec, text: str) -> list[int]:
    """Token ids of a request whose user text is given whole, suffix included.

    Tags that stand in the family's own task texts (InternVL's `<ref>`) are control tokens here too; all others stay text.
    """
    own = spec.modal + spec.amodal
    controls = [token for token in control_tokens(tokenizer) if token not in own]
    pieces = _without_typed_control_tokens(text + spec.suffix, range(len(text)), controls)
    return [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False).ids]


def prefix_ids(tokenizer: Tokenizer, spec: PromptSpec) -> list[int]:
    """Token ids of the prefix: the part that every request on a frame shares, one image token in it."""
    return tokenizer.encode(spec.prefix, add_special_tokens=False).ids


def image_token_id(tokenizer: Tokenizer, spec: PromptSpec) -> int:
    """The id of the image token.

    Raises:
        CheckpointError: the tokenizer lacks it.
    """
    found = tokenizer.token_to_id(spec.image_token)
    if found is None:
        raise CheckpointError(f"token {spec.image_token} in the tokenizer", "no such token", "check tokenizer.json")
    return found


def control_tokens(tokenizer: Tokenizer) -> list[str]:
    """Texts that steer the model: the tokens flagged special, and every added token in angle brackets.

    Other added tokens (whole words, pieces of an answer) are ordinary text and are left alone.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if token.special or _TAG.fullmatch(token.content)]


def check_prompt_split(tokenizer: Tokenizer, spec: PromptSpec) -> None:
    """Check, once per build, that tokenising prefix and request apart gives the tokens of the whole.

    Raises:
        CheckpointError: the tokenizer merges across the border, so a cached prefix would change the prompt.
    """
    for task in Task:
        prefix, request = encode_prompt(tokenizer, spec, "the red mug, left of 12 cups", task)
        whole = spec.prefix + spec.task_text("the red mug, left of 12 cups", task) + spec.suffix
        if prefix + request != tokenizer.encode(whole, add_special_tokens=False).ids:
            raise CheckpointError(
                "a chat template whose text before the task tokenises by itself",
                repr(spec.prefix[-20:]),
                "report this template",
            )


def _without_typed_control_tokens(text: str, typed: range, controls: list[str]) -> Iterator[str]:
    """`text` in pieces, cut inside every control token that the expression holds or helps to form."""
    pattern = re.compile("|".join(re.escape(c) for c in sorted(controls, key=len, reverse=True)) or r"(?!)")
    start = scan = 0
    while match := pattern.search(text, scan):
        if match.start() < typed.stop and match.end() > typed.start:
            # Cut after the first character: neither side holds the whole token any more.
            yield text[start : match.start() + 1]
            start = scan = match.start() + 1
        else:
            scan = match.end()
    yield text[start:]
