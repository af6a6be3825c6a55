"""The checkpoint that is shipped: small, complete, of this code's making, and good enough for the demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.nano.build import NanoShape, nano_config
from training.nano.evaluate import answers, by_kind, load_fast, make_cases
from training.nano.tokenizer import CHAT_TEMPLATE, build_tokenizer

SHIPPED = Path(__file__).parents[3] / "egm_edge" / "assets" / "egm-nano"


def test_is_complete_and_small() -> None:
    names = {path.name for path in SHIPPED.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 15e6


def test_speaks_this_codes_language() -> None:
    assert (SHIPPED / "tokenizer.json").read_text() == build_tokenizer().to_str(pretty=True)
    assert (SHIPPED / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    config = json.loads((SHIPPED / "config.json").read_text())
    assert config["image_token_id"] == nano_config(NanoShape()).image_token_id


@pytest.mark.timeout(300)
def test_finds_things_on_a_table() -> None:
    """The floor of the first release: half of 1-3 object scenes by attribute (measured numbers are in the model card)."""
    cases = make_cases(64, (1, 3), ("attribute",), first_seed=950_000_000)
    result = by_kind(cases, answers(load_fast(SHIPPED), cases))["all"]
    print(f"Acc@0.5 {result.accuracy:.2f}, mean IoU {result.mean_iou:.2f} on {result.count} scenes")
    assert result.accuracy >= 0.5
