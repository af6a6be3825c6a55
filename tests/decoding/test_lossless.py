"""Forced syntax, drafts and batches change no token of a well-formed reply, and make every reply readable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from egm_edge import Frame, Grounder, Outcome
from egm_edge.assets import shipped_checkpoint
from egm_edge.decoding import Budget, Decoder, Generation, TokenEvent
from egm_edge.decoding.constrained.decoder import ConstrainedDecoder
from egm_edge.decoding.constrained.grammar import AnswerSyntax
from egm_edge.decoding.speculative.ngram_proposer import NgramProposer, NgramStatistics
from egm_edge.decoding.speculative.reply_cache import ReplyCache
from egm_edge.parsing import parse_answer
from tests.decoding.scripted import LABELS, QWEN_LAYOUTS, TAG_LAYOUTS, ScriptedModel, well_formed
from tests.support.qwen_tokenizer import INTERNVL3_SPECIALS, QWEN3_SPECIALS, byte_tokenizer

REPLIES = 350  # of each of three vocabularies: over a thousand
REQUEST = list(range(40, 60))
STATISTICS = NgramStatistics()
ANSWERED = (Outcome.FOUND, Outcome.NOT_FOUND)


def _kinds() -> dict[str, tuple[Tokenizer, str, bool, tuple[str, ...]]]:
    nano = Tokenizer.from_file(str(shipped_checkpoint() / "tokenizer.json"))
    return {
        "EGM-Nano's whole numbers": (nano, "bbox_2d_json", True, QWEN_LAYOUTS),
        "Qwen3-VL, digit by digit": (byte_tokenizer(QWEN3_SPECIALS), "bbox_2d_json", True, QWEN_LAYOUTS),
        "InternVL3, digit by digit": (byte_tokenizer(INTERNVL3_SPECIALS), "ref_box", False, TAG_LAYOUTS),
    }


@pytest.fixture(scope="module", params=list(_kinds()))
def kind(request: pytest.FixtureRequest) -> tuple[AnswerSyntax, bool, tuple[str, ...]]:
    tokenizer, syntax, thinking, layouts = _kinds()[request.param]
    return AnswerSyntax(syntax, tokenizer), thinking, layouts


def _reply(
    syntax: AnswerSyntax,
    script: list[int],
    thinking: bool,
    *,
    force: bool,
    speculate: bool,
    lookup: bool,
    earlier: ReplyCache | None = None,
    limit: int = 400,
) -> Generation:
    end = syntax.tokenizer.token_to_id("<|im_end|>")
    model = ScriptedModel(syntax.tokenizer.get_vocab_size(), len(REQUEST), [*script, end, end])
    constrained = ConstrainedDecoder(syntax, LABELS[0], chosen_box="target") if force else None
    known = {"digits": syntax.tokens.digit_ids, "statistics": STATISTICS} if force else {}
    proposer = NgramProposer(reply_cache=earlier, **known) if lookup else None  # type: ignore[arg-type]
    decoder = Decoder(
        syntax.tokenizer, {end}, Budget(limit), thinking=thinking, constrained=constrained, speculate=speculate,
        proposer=proposer,
    )  # fmt: skip
    return decoder.generate(model, REQUEST)


def test_every_fast_path_gives_the_tokens_of_one_by_one_free_decoding(
    kind: tuple[AnswerSyntax, bool, tuple[str, ...]],
) -> None:
    syntax, thinking, layouts = kind
    rng = random.Random(7)
    steps = {"free": 0, "fast": 0}
    earlier = ReplyCache()
    for number in range(REPLIES):
        answer = well_formed(rng, rng.choice(layouts))
        thought = rng.choice(("red mug: 1 large red mug [100, 200, 300, 400]. target 1", "left of it", answer))
        text = f"{thought}\n</think>\n\n{answer}"
        if not thinking:
            text = rng.choice((answer, f"<think>{text}"))
        script = syntax.encode(text)
        free = _reply(syntax, script, thinking, force=False, speculate=False, lookup=False)
        assert parse_answer(free.marked_text, in_thought=thinking).outcome in ANSWERED
        options = ((True, False, False), (True, True, False), (False, True, True), (True, True, True))
        force, speculate, lookup = options[number % 4]
        fast = _reply(syntax, script, thinking, force=force, speculate=speculate, lookup=lookup, earlier=earlier)
        earlier.note(fast.token_ids)
        assert (fast.token_ids, fast.think_tokens) == (free.token_ids, free.think_tokens), text
        asked = ~np.isnan(fast.log_probabilities)
        assert asked.sum() > 0.5 * len(asked)
        np.testing.assert_allclose(np.array(fast.log_probabilities)[asked], np.array(free.log_probabilities)[asked], atol=1e-5)
        if number % 4 == 3:
            steps["free"], steps["fast"] = steps["free"] + free.steps, steps["fast"] + fast.steps
    assert steps["fast"] < 0.7 * steps["free"]


def test_whatever_a_model_writes_can_be_read(kind: tuple[AnswerSyntax, bool, tuple[str, ...]]) -> None:
    syntax, thinking, _ = kind
    rng = np.random.default_rng(3)
    words = [
        "no idea",
        "</think>prose",
        "[1, 2",
        '{"bbox_2d": [9',
        "<|im_end|>",
        "</think>[]",
        "<box>",
        "\n</think>\n\n```json\n[{",
    ]
    outcomes = set()
    for _ in range(40):
        text = "".join(rng.choice(words, size=rng.integers(1, 5)))
        script = [*syntax.encode(text), *rng.integers(0, 200, 30).tolist()]
        reply = _reply(syntax, script, thinking, force=True, speculate=bool(rng.integers(2)), lookup=True, limit=240)
        outcome = parse_answer(reply.marked_text, in_thought=thinking).outcome
        assert outcome in ANSWERED, reply.marked_text
        outcomes.add(outcome)
    assert Outcome.FOUND in outcomes


@pytest.fixture(scope="module", params=["tiny_qwen3_vl", "tiny_internvl3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    from build_engine.compilers.cpu import build_cpu

    checkpoint: Path = request.getfixturevalue(request.param)
    bundle = build_cpu(checkpoint, tmp_path_factory.mktemp("lossless") / "bundle", precision="fp32", gate=False)
    with Grounder.from_opened(bundle, threads=1) as grounder:
        yield grounder


IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
EXPRESSIONS = ("the mug", "left of the box", "aaaa", "the second thing from the left")


def test_random_models_answer_alike_with_and_without_drafts_and_can_always_be_read(tiny: Grounder) -> None:
    frame = tiny.frame(IMAGE, color="rgb")
    for expression in EXPRESSIONS:
        for think in (0, 5):
            texts = set()
            for tiny.speculate in (False, True):
                grounding = tiny.ground(frame, expression, max_think_tokens=think, max_new_tokens=260)
                assert grounding.outcome in ANSWERED
                texts.add(grounding.text)
            assert len(texts) == 1


@pytest.mark.parametrize("force", [False, True])
def test_a_kept_frame_gives_the_tokens_of_a_new_one(tiny: Grounder, force: bool) -> None:
    """Also after another frame took its place in the engine, and with drafts from what was said about it."""

    def said(frame: Frame, expression: str) -> tuple[str, ...]:
        events: list[TokenEvent] = []
        tiny.ground(frame, expression, force_syntax=force, max_new_tokens=90, on_token=events.append)
        return tuple(event.text for event in events)

    kept, other = tiny.frame(IMAGE, color="rgb"), tiny.frame(IMAGE[:60], color="rgb")
    for expression in (*EXPRESSIONS, EXPRESSIONS[0]):
        alone = said(tiny.frame(IMAGE, color="rgb"), expression)
        assert force or len(alone) > 20
        assert said(kept, expression) == alone
        said(other, expression)
        assert said(kept, expression) == alone


def test_samples_of_one_batch_are_the_samples_of_single_requests(tiny: Grounder) -> None:
    frame = tiny.frame(IMAGE, color="rgb")
    assert tiny.backend.capabilities.branches
    seen: list[list[str]] = []
    for branches in (True, False):
        texts: list[str] = []
        original = tiny.backend.capabilities
        tiny.backend.capabilities = type(original)(interrupt=True, branches=branches)
        try:
            for expression in EXPRESSIONS[:2]:
                found = tiny.ground(frame, expression, samples=3, seed=5, max_think_tokens=4, max_new_tokens=200)
                texts.append(f"{found.text} {found.agreement} {found.outcome}")
        finally:
            tiny.backend.capabilities = original
        seen.append(texts)
    assert seen[0] == seen[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_requests_to_the_shipped_model_get_the_very_same_replies(count: int, tmp_path: Path) -> None:
    """Frame shared, drafts and syntax against none of them, in fp32, wherever free decoding ends in a well-formed answer."""
    from build_engine.compilers.cpu import build_cpu
    from egm_edge.assets import shipped_checkpoint
    from tests.bench.lossless import compare

    bundle = build_cpu(shipped_checkpoint(), tmp_path / "bundle", precision="fp32", gate=False)
    with Grounder.from_opened(bundle) as grounder, grounder.answers_unjudged():  # the model's own words, as they are
        found = compare(grounder, count)
    print(found)
    assert found.asked >= count and found.unwell < 0.02 * count + 3
    assert found.other_replies == found.other_boxes == 0
    assert found.steps_saved > 10 * found.asked
