"""Turn a Query into the token rows that Nano is trained on. The texts are EGM's; knows nothing of tensors.

A row starts where the image prefix ends (after `<|vision_end|>`). The generation prompt ends with `<think>` and a
newline, so what the model writes is `THOUGHT`, a newline, `</think>`, a blank line and the fenced JSON. An empty thought
is the direct mode: a runtime that closes the thought at once meets a model that has seen it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Tokenizer

from egm_edge.families import family_for
from egm_edge.grounding import Task
from egm_edge.synthetic.query import Query, World, box_text, describe
from egm_edge.synthetic.render import Layout
from training.nano import tokenizer as tok

PREFIX = "<|im_start|>user\n<|vision_start|>"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n"
CLOSED = f"\n{tok.THINK_CLOSE}\n\n"
"""An empty thought: put behind the prompt it makes the model answer directly."""
LIST_ALL = "List every object"


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One query as tokens.

    Attributes:
        ids: prompt (from the task text on) and completion.
        prompt_length: how many of them are prompt, hence not supervised.
        coordinate: per token, whether it is a box coordinate (gets a soft target).
    """

    ids: tuple[int, ...]
    prompt_length: int
    coordinate: tuple[bool, ...]


@functools.cache
def tokenizer() -> Tokenizer:
    return tok.build_tokenizer()


def token_id(text: str) -> int:
    """Id of a token that is in the vocabulary for certain."""
    found = tokenizer().token_to_id(text)
    assert found is not None, text
    return found


@functools.cache
def number_ids() -> tuple[int, ...]:
    """Token ids of 0, 5, ..., 1000."""
    return tuple(token_id(str(n)) for n in tok.NUMBERS)


@functools.cache
def _coordinate_openers() -> frozenset[int]:
    encode = tokenizer().encode
    return frozenset({encode(" [").ids[0], encode("1, 1").ids[1], encode(tok.BOX_OPEN).ids[0]})


def task_text(expression: str, task: Task) -> str:
    """EGM's user text: the family's own."""
    family = family_for("qwen3_vl")
    template = family.amodal if task is Task.AMODAL else family.modal
    return template.replace("{expression}", expression)


def prompt_ids(query: Query, reasoning: bool = True) -> list[int]:
    """The prompt from the task text on; without reasoning the thought is closed at once."""
    text = task_text(query.expression, query.task) + SUFFIX + ("" if reasoning else CLOSED)
    return tokenizer().encode(text, add_special_tokens=False).ids


def answer_text(query: Query) -> str:
    """The fenced JSON after the thought."""
    if query.box_norm1000 is None:
        return tok.NOTHING
    coordinates = box_text(query.box_norm1000)[1:-1]
    return f"{tok.BOX_OPEN}{coordinates}{tok.BOX_CLOSE}{query.label}{tok.LABEL_CLOSE}"


def completion_text(query: Query, reasoning: bool) -> str:
    thought = query.reasoning if reasoning else ""
    return f"{thought}\n{tok.THINK_CLOSE}\n\n{answer_text(query)}<|im_end|>"


def query_row(query: Query, reasoning: bool = True) -> PromptRow:
    return _row(task_text(query.expression, query.task) + SUFFIX, completion_text(query, reasoning))


def list_row(scene: World, where: Layout) -> PromptRow:
    """Every object with its visible box, left to right: the dense lesson in reading boxes."""
    order = [i for i in sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].x) if where.modal[i]]
    items = [
        f"{rank} {describe(scene.objects[i])} {box_text(where.modal[i].to_norm1000(*where.wh))}"  # type: ignore[union-attr]
        for rank, i in enumerate(order, 1)
    ]
    return _row(LIST_ALL + SUFFIX, f"object: {'; '.join(items)}.\n{tok.THINK_CLOSE}<|im_end|>")


def _row(prompt: str, completion: str) -> PromptRow:
    prompt_ids = tokenizer().encode(prompt, add_special_tokens=False).ids
    ids = prompt_ids + tokenizer().encode(completion, add_special_tokens=False).ids
    numbers, openers = _number_set(), _coordinate_openers()
    coordinate = [False] + [now in numbers and before in openers for before, now in pairwise(ids)]
    return PromptRow(tuple(ids), len(prompt_ids), tuple(coordinate))


@functools.cache
def _number_set() -> frozenset[int]:
    return frozenset(number_ids())
