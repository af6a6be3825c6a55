"""Card, report and curves: what was measured is what is written."""

from __future__ import annotations

import json
from pathlib import Path

from training.nano.card import Report, measured_values, model_card, report_values
from training.nano.compare import SUITES, SuiteScore, pair
from training.nano.config import load_plan
from training.nano.curves import draw_curves, read_curves
from training.nano.state import Cost
from training.nano.suites import AMODAL, EASY, MODAL

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"
ARMS = ("direct", "sft", "grpo")


def measured(right: int, of: int, kinds: tuple[str, ...] = ("attribute", "ordinal")) -> SuiteScore:
    ious = [0.9] * right + [0.1] * (of - right)
    return SuiteScore([kinds[i % len(kinds)] for i in range(of)], ious, [i == of - 1 for i in range(of)])


def report() -> Report:
    results = {suite.name: {name: measured(50 + 10 * i, 100) for i, name in enumerate(ARMS)} for suite in SUITES}
    pairs = {(MODAL.name, "sft", "grpo"): pair(results, MODAL.name, "sft", "grpo")}
    extra = {EASY.name: {"grpo": measured(40, 40, ("attribute",))}}
    return Report(
        ARMS,
        "grpo",
        results,
        extra,
        pairs,
        {"grpo": Cost(157.0, 9, 8, "vision 15, grpo 8")},
        3_000_000,
        "Resumed by hand.",
        how={"direct": "every answer at once, no thought", "grpo": "reasoning SFT, then GRPO"},
        recipe="Recipe: minutes and questions.",
    )


def test_the_card_names_every_arm_with_its_interval() -> None:
    card = model_card(report())
    for line in (
        "| direct | every answer at once, no thought | 0.500 (0.404 - 0.596) |",
        "| grpo (shipped) | reasoning SFT, then GRPO | 0.700 (0.604 - 0.781) |",
        "| grpo against sft | 3-6 objects, modal | +0.100 |",
        "| 1-3 objects, attribute | all | 40 | 1.000 |",
        "| grpo | 157 | vision 15, grpo 8 | 9 | 8 |",
        "100 scenes a suite",
        "\nResumed by hand.\n",
        "\nRecipe: minutes and questions.\n",
        "counted from random weights",
    ):
        assert line in card, line
    assert AMODAL.name in card and "curves.png" in card


def test_the_report_is_json_with_the_same_numbers() -> None:
    values = json.loads(json.dumps(report_values(report())))
    assert values["best"] == "grpo"
    assert values["suites"][MODAL.name]["sft"]["kinds"]["all"]["acc@0.5"] == 0.6
    assert values["pairs"][0]["only_second"] == 10
    assert measured_values(measured(5, 10))["answered_not_there"]["share"] == 0.1


def test_curves_are_drawn_from_the_logs(tmp_path: Path) -> None:
    plan = load_plan(CONFIG)
    for number, run in enumerate(plan.runs):
        (tmp_path / run.name).mkdir()
        lines = [
            {"total_cpu_s": 60 * (number + i), "stage": "s", "loss": 2.0 / (i + 1), "reward": 0.1 * i}
            for i in range(30)
        ]
        held_out = {"total_cpu_s": 60 * number, "held_out": {"modal": 0.5, "negative": 0.25}}
        text = "\n".join(json.dumps(line) for line in [*lines, held_out])
        (tmp_path / run.name / "log.jsonl").write_text(text + '\n{"cut sho')
    curves = read_curves(tmp_path / "grpo" / "log.jsonl")
    assert len(curves.loss) == 2 and curves.accuracy == {"modal": [(4.0, 0.5)], "negative": [(4.0, 0.25)]}
    draw_curves(plan, tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.png").stat().st_size < 100_000
