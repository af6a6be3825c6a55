"""A cap on tokens is planned as a deadline is: at every cap EGM-Nano answers at least as well as without a thought."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from egm_edge import Grounder, Task
from egm_edge.assets import shipped_checkpoint
from egm_edge.boxes import Box
from egm_edge.grounding import Grounding, Truncation
from egm_edge.synthetic import layout, queries, render, sample_scene

FIRST_SEED = 960_500_000
QUESTIONS = 40
CAPS = (8, 16, 32, 48, 64)
Question = tuple[NDArray[np.uint8], str, Task, Box]


@pytest.fixture(scope="module")
def grounder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    from build_engine.compilers.cpu import build_cpu

    bundle = build_cpu(shipped_checkpoint(), tmp_path_factory.mktemp("caps") / "bundle", gate=False)
    with Grounder.from_opened(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    found: list[Question] = []
    for seed in range(FIRST_SEED, FIRST_SEED + 2 * QUESTIONS):
        scene = sample_scene(seed, (3, 6))
        queried = queries(scene, random.Random(seed), where=layout(scene, 640, 480), count=1, amodal=0.0)
        if queried and queried[0].box_norm1000:
            box = Box.from_norm1000(queried[0].box_norm1000, 640, 480)
            found.append((render(scene, 640, 480).image, queried[0].expression, queried[0].task, box))
    return found[:QUESTIONS]


def _right(found: Grounding, truth: Box) -> bool:
    return found.box is not None and found.box.iou(truth) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True], ids=["lengths of thoughts unknown", "lengths of thoughts known"])
@pytest.mark.parametrize("name", ["max_new_tokens", "max_think_tokens"])
def test_no_cap_is_worse_than_no_thought(grounder: Grounder, asked: list[Question], name: str, known: bool) -> None:
    grounder = Grounder(grounder.backend, grounder.bundle, grounder.tokenizer)  # one that has learned nothing yet
    for image, words, task, _ in asked[:10] if known else ():
        grounder.ground(image, words, task=task, color="rgb")
    without = [_right(_ask(grounder, q, max_think_tokens=0), q[3]) for q in asked]
    for cap in CAPS:
        answers = [_ask(grounder, question, **{name: cap}) for question in asked]
        right = [_right(answer, question[3]) for answer, question in zip(answers, asked, strict=True)]
        assert sum(right) >= sum(without) - 0.02 * len(asked), cap
        if name == "max_new_tokens":
            assert all(answer.tokens.completion <= cap for answer in answers)
        cut = [answer for answer in answers if Truncation.THOUGHT in answer.truncated_by]
        assert len(cut) == len(answers) or cap >= 48, "a cap that leaves the thought out says so"
        for answer in cut:
            assert (Truncation.MAX_NEW_TOKENS in answer.truncated_by) == (name == "max_new_tokens")


def test_an_answer_of_which_only_the_box_fits_can_be_read(grounder: Grounder, asked: list[Question]) -> None:
    """Eight tokens are its frame, four numbers and three commas; what ends it is written without the model."""
    whole, least = (_ask(grounder, asked[0], **cap) for cap in ({"max_think_tokens": 0}, {"max_new_tokens": 8}))
    assert least.box == whole.box is not None
    assert (least.tokens.completion, least.label) == (8, "")
    assert least.text.endswith("]}]```")


def test_without_a_cap_every_thought_is_begun(grounder: Grounder, asked: list[Question]) -> None:
    answers = [_ask(grounder, question) for question in asked[:5]]
    assert all(answer.tokens.think > 4 and not answer.truncated_by for answer in answers)


def _ask(grounder: Grounder, question: Question, **limits: int) -> Grounding:
    image, words, task, _ = question
    return grounder.ground(image, words, task=task, color="rgb", **limits)
