"""`egm train plan`: arithmetic that can be followed by hand, and every deviation from upstream said."""

from __future__ import annotations

import json

import pytest

from egm_edge.cli import main as egm
from training import plan
from training.stage_config import CONFIGS, load_grpo, load_sft
from training.upstream import SFT_ROWS, differences

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*-*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_run_has_a_plan_that_fits(name: str, capsys: pytest.CaptureFixture) -> None:
    assert plan.main([name]) == 0
    text = capsys.readouterr().out
    assert name in text and "not measured" in text and "MORE THAN" not in text


def test_upstreams_steps_come_out() -> None:
    """575,208 rows of 128 are upstream's 4,493 whole steps; 83,989 questions of 256 over 3 epochs its 984."""
    sft = plan.plan("qwen3-vl-8b-modal-sft", load_sft("qwen3-vl-8b-modal-sft"), 8)
    assert (sft.rows, sft.per_step, sft.steps) == (SFT_ROWS, 128, 4493)
    grpo = plan.plan("qwen3-vl-8b-modal-grpo", load_grpo("qwen3-vl-8b-modal-grpo"), 8)
    assert (grpo.per_step, grpo.steps) == (256, 984)


def test_memory_is_zeros_arithmetic() -> None:
    """ZeRO-3 over 8 GPUs: 8.77e9 parameters, of which 8.19e9 learn: (2 * 8.77 + 14 * 8.19) / 8 = 16.5e9 bytes."""
    found = plan.plan("qwen3-vl-8b-modal-sft", load_sft("qwen3-vl-8b-modal-sft"), 8)
    assert found.weights_gib == pytest.approx((2 * 8.77e9 + 14 * 8.19e9) / 8 / 2**30, rel=1e-6)
    alone = plan.plan("x", load_sft("qwen3-vl-8b-modal-sft", {"run.deepspeed": "none"}), 8)
    assert alone.peak_gib > plan.GPU_GIB and "MORE THAN THE 80 OF ONE" in plan.as_text(alone)


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.endswith("grpo")])
def test_what_a_grpo_run_does_otherwise_than_upstream_is_marked_in_its_file(name: str) -> None:
    config = load_grpo(name)
    found = {d.key for d in differences(plan.model_of(name, config), config)}
    assert found == {"run.reports", "validation rows", "reward"}
    assert (CONFIGS / f"{name}.yaml").read_text().count("not upstream") >= len(found)


def test_an_override_shows_as_a_difference(capsys: pytest.CaptureFixture) -> None:
    assert plan.main(["qwen3-vl-2b-modal-grpo", "--set", "sampling.top_k=0", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {"key": "sampling.top_k", "ours": 0, "upstream": 50} in found["differences"]


def test_an_unknown_model_is_named(capsys: pytest.CaptureFixture, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "qwen3-vl-2b-modal-sft.yaml").read_text().replace("Qwen3-VL-2B-Thinking", "Other-3B"))
    assert egm(["train", "plan", str(path)]) == 2
    assert "expected a model of qwen3-vl-2b" in capsys.readouterr().err
