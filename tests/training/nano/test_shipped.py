"""The checkpoint that is shipped: small, complete, of this code's making, and good enough for the demo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.nano.build import NanoShape, nano_config
from training.nano.evaluate import answers, by_kind, load_fast
from training.nano.suites import AMODAL, EASY, HOUSEHOLD, MODAL, Suite
from training.nano.tokenizer import CHAT_TEMPLATE, build_tokenizer

SHIPPED = Path(__file__).parents[3] / "egm_edge" / "assets" / "egm-nano"


def test_is_complete_and_small() -> None:
    names = {path.name for path in SHIPPED.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
        "curves.png",
    } <= names
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 15e6


def test_speaks_this_codes_language() -> None:
    assert (SHIPPED / "tokenizer.json").read_text() == build_tokenizer().to_str(pretty=True)
    assert (SHIPPED / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["image_token_id"] == nano_config(NanoShape()).image_token_id


@pytest.mark.timeout(300)
def test_finds_things_on_a_table() -> None:
    """1-3 objects by attribute, a quick look; the measured numbers are in the model card."""
    cases = replace(EASY, first_seed=950_000_000).cases(64)
    result = by_kind(cases, answers(load_fast(SHIPPED), cases))["all"]
    print(f"Acc@0.5 {result.accuracy:.2f}, mean IoU {result.mean_iou:.2f} on {result.count} scenes")
    assert result.accuracy >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("suite", "least"),
    [(MODAL, 0.85), (AMODAL, 0.66), (HOUSEHOLD, 0.77)],
    ids=["modal", "amodal, really occluded", "household"],
)
def test_holds_on_the_scenes_of_its_card(suite: Suite, least: float) -> None:
    """3-6 objects, every kind of question in turn; of amodal questions only those whose target is really occluded."""
    cases = suite.cases(600)
    assert {case.query.kind for case in cases} == set(suite.kinds) and len({case.seed for case in cases}) == 600
    found = by_kind(cases, answers(load_fast(SHIPPED), cases))
    for kind, result in found.items():
        print(f"{suite.name}, {kind}: {result.accuracy:.3f} ({result.interval95[0]:.3f} - {result.interval95[1]:.3f})")
    assert found["all"].accuracy >= least
