"""Earlier replies about a frame as drafts of the next one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from egm_edge import Grounder
from egm_edge.assets import shipped_checkpoint
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer, NgramStatistics
from egm_edge.decoding.speculative.reply_cache import MAX_TOKENS, ReplyCache, SuffixMatcher
from egm_edge.synthetic import layout, queries, render, sample_scene

DIGITS = {10, 11, 12, 13}
REPLY = [1, 2, 3, 10, 4, 11, 5, 6, 7]


def _follower(heard: list[int]) -> SuffixMatcher:
    earlier = ReplyCache()
    earlier.note(REPLY)
    follower = SuffixMatcher(earlier, DIGITS)
    for token in heard:
        follower.hear(token)
    return follower


@pytest.mark.parametrize(
    ("heard", "ahead"),
    [
        ([1, 2], [3, 10, 4]),  # numbers too, unlike words of this reply
        ([9, 2, 3], [10, 4, 11]),
        ([1, 2, 3, 12], [4, 11, 5]),  # another number in its place
        ([1, 2, 3, 8], []),  # another word
        ([1, 2, 3, 8, 5, 6], [7]),
        ([5, 6, 7], []),  # the reply ended there
        ([1], []),
    ],
)
def test_an_earlier_reply_is_followed_while_it_agrees(heard: list[int], ahead: list[int]) -> None:
    assert _follower(heard).ahead(3) == ahead


def test_two_replies_do_not_run_into_each_other_and_the_later_one_is_believed() -> None:
    earlier = ReplyCache()
    earlier.note([1, 2, 3])
    earlier.note([1, 2, 4])
    follower = SuffixMatcher(earlier, DIGITS)
    for token in (1, 2):
        follower.hear(token)
    assert follower.ahead(2) == [4]
    assert earlier.find([3, 1]) is None


def test_memory_is_bounded() -> None:
    earlier = ReplyCache()
    for start in range(0, 5 * MAX_TOKENS, 500):
        earlier.note(list(range(start, start + 500)))
        assert len(earlier.ids) <= MAX_TOKENS


def test_following_that_proves_wrong_is_left() -> None:
    earlier, memory = ReplyCache(), NgramStatistics()
    earlier.note(REPLY)
    lookup = NgramProposer([1, 2], digits=DIGITS, statistics=memory, reply_cache=earlier)
    assert lookup.propose(4) == [3, 10, 4, 11]
    for _ in range(30):
        lookup.propose(4)
        lookup.record_accepted(0)
    assert lookup.propose(4) == []


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    from build_engine.compilers.cpu import build_cpu

    bundle = build_cpu(shipped_checkpoint(), tmp_path_factory.mktemp("nano") / "bundle", precision="fp32", gate=False)
    with Grounder.from_opened(bundle, threads=1) as grounder:
        yield grounder


def _scene(seed: int, objects: tuple[int, int], count: int, kind: str = "attribute") -> tuple[NDArray[np.uint8], list[str]]:
    scene = sample_scene(seed, objects)
    asked = queries(scene, random.Random(seed), where=layout(scene, 640, 480), count=count, weights={kind: 1.0})
    return render(scene, 640, 480).image, [query.expression for query in asked]


def test_later_sentences_about_a_frame_take_fewer_steps_and_say_the_same(nano: Grounder) -> None:
    alone = together = 0
    for seed in range(930_100_000, 930_100_006):
        image, expressions = _scene(seed, (2, 5), 3)
        shared = nano.frame(image, color="rgb")
        for expression in expressions:
            one = nano.ground(nano.frame(image, color="rgb"), expression)
            other = nano.ground(shared, expression)
            assert (other.box, other.text) == (one.box, one.text)
            alone, together = alone + one.tokens.decode_steps, together + other.tokens.decode_steps
    assert together < 0.85 * alone


@pytest.mark.parametrize("think", [0, 8])
def test_a_hurried_answer_asks_the_model_for_the_box_alone(nano: Grounder, think: int) -> None:
    """Its constants and its label cost no steps, and it may still say that there is nothing."""
    found = missing = 0
    for seed in range(930_200_000, 930_200_012):
        image, expressions = _scene(seed, (1, 4), 1)
        frame = nano.frame(image, color="rgb")
        for expression in (*expressions, *_scene(seed, (1, 4), 1, "negative")[1]):
            grounding = nano.ground(frame, expression, max_think_tokens=think)
            if grounding.box is None:
                missing += 1
                assert grounding.text.endswith("```json\n[]\n```")
            else:
                found += 1
                assert grounding.label == expression
                assert grounding.tokens.decode_steps <= think + 6  # its start, one a coordinate, one that a draft may lose
    assert found >= 6 and missing >= 2


def test_a_hurried_answer_does_not_depend_on_what_was_asked_before(nano: Grounder) -> None:
    """Whole answers teach how this model lays them out; what they teach must not move a forced_answer one."""
    image, expressions = _scene(930_300_001, (3, 5), 3)

    def forced_answer() -> list[tuple[str, object]]:
        answers = [nano.ground(nano.frame(image, color="rgb"), words, max_think_tokens=0) for words in expressions]
        return [(answer.outcome.value, answer.box) for answer in answers]

    nano.syntax.__init__(nano.prompt_spec.answer_syntax, nano.tokenizer)  # type: ignore[misc]
    before = forced_answer()
    assert all(outcome == "FOUND" for outcome, _ in before)
    for seed in range(930_300_010, 930_300_014):
        other, words = _scene(seed, (1, 4), 2)
        for expression in words:
            nano.ground(other, expression, color="rgb")
        assert forced_answer() == before
