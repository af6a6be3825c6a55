"""Sampling: what is drawn has the log-probability that is reported, and the cheap paths give what the plain ones give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.nano.data import collate
from training.nano.evaluate import wrap
from training.nano.fastpath import FastNano, Prefix
from training.nano.generate import generate
from training.nano.prompts import PromptRow, token_id, tokenizer

PROMPTS = ("Locate the red mug, output", "Locate the second small blue bowl from the left amodally, output its bbox")
STOP = token_id("<|im_end|>")


@pytest.fixture(scope="module")
def fast(nano_folder: Path) -> FastNano:
    from transformers import Qwen3VLForConditionalGeneration

    model = Qwen3VLForConditionalGeneration.from_pretrained(nano_folder, dtype=torch.float32).eval()
    with torch.no_grad():  # sharper, so that answers end at different lengths
        model.model.language_model.norm.weight.mul_(3.0)
    return wrap(model)


@pytest.fixture(scope="module")
def prefix(fast: FastNano) -> Prefix:
    patches = torch.rand(2, 144, 768, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        return fast.prefix(fast.vision(patches, (12, 12)), (12, 12))


def prompts() -> list[list[int]]:
    return [tokenizer().encode(text).ids for text in PROMPTS]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_reported_log_probabilities_are_those_of_the_whole_row(
    fast: FastNano, prefix: Prefix, temperature: float
) -> None:
    """Token by token with a growing cache, in a batch that loses its finished rows, against one pass over the row."""
    drawn = generate(
        fast, prefix, [0, 1], prompts(), STOP, 40,
        temperature=temperature, copies=6, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(drawn) == 12
    for number, answer in enumerate(drawn):
        prompt = prompts()[number // 6]
        ids = (*prompt, *answer.ids, *([STOP] if answer.finished else []))
        rows = collate([(number // 6, PromptRow(ids, len(prompt), (False,) * len(ids)))])
        with torch.no_grad():
            logits = fast.logits(fast.rows(prefix, rows.image, rows.ids[:, :-1]))[0] / (temperature or 1.0)
        steps = range(len(prompt), len(ids))
        expected = sum(logits[i - 1].log_softmax(-1)[ids[i]].item() for i in steps) / len(steps)
        assert answer.log_p == pytest.approx(expected, abs=2e-4)


def test_copies_differ_and_a_seed_repeats_them(fast: FastNano, prefix: Prefix) -> None:
    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        found = generate(fast, prefix, [0], prompts()[:1], STOP, 12, temperature=1.0, copies=8, generator=generator)
        return [answer.ids for answer in found]

    assert draw(1) == draw(1) != draw(2)
    assert len({tuple(ids) for ids in draw(1)}) > 1


def test_finished_rows_leave_without_changing_the_others(fast: FastNano, prefix: Prefix) -> None:
    """Every token is made the end once: rows end at different times, and each is what it is when it runs alone."""
    plain = generate(fast, prefix, [0, 1], prompts(), STOP, 30)
    for stop in {ids for answer in plain for ids in answer.ids[3:20]}:
        together = generate(fast, prefix, [0, 1], prompts(), stop, 30)
        alone = [generate(fast, prefix, [i], [prompt], stop, 30)[0] for i, prompt in enumerate(prompts())]
        assert [a.ids for a in together] == [a.ids for a in alone]
        assert [a.finished for a in together] == [a.finished for a in alone]
