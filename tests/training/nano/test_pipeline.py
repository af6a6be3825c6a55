"""The plan is carried out in order; what is done is not done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from egm_edge.errors import CheckpointError, InputError
from training.cli import main
from training.nano.config import RunConfig, load_plan, smoke
from training.nano.pipeline import is_finished, train_plan
from training.nano.state import TrainingProgress, load_state, save_state

CONFIG = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"
CPU = torch.device("cpu")


def test_a_run_waits_for_the_one_it_starts_from(tmp_path: Path) -> None:
    plan = load_plan(CONFIG)
    with pytest.raises(CheckpointError, match=r"run 'reasoning'.*--only reasoning"):
        train_plan(plan, tmp_path, CPU, only="grpo")


def test_a_run_is_finished_after_its_last_stage(tmp_path: Path) -> None:
    run = load_plan(CONFIG).run("base")
    for stage, finished in ((0, False), (2, False), (3, True)):
        save_state(tmp_path / "state.pt", TrainingProgress(stage=stage), {})
        assert is_finished(tmp_path, run) is finished


def test_an_unknown_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base, direct, reasoning, sft, grpo"):
        main(["nano", "--only", "rl", "--out", str(tmp_path)])


def test_a_child_goes_on_from_its_parents_weights_and_counters(tmp_path: Path) -> None:
    """Two runs of a few steps, the second from what the first ended with, and a third that is their mean."""
    plan = smoke(load_plan(CONFIG), cpu_minutes=0.004)
    base = replace(plan.run("base"), stages=plan.run("base").stages[1:2])
    plan = replace(plan, runs=(base, replace(plan.run("sft"), start="base")), arms=("sft",))
    assert train_plan(plan, tmp_path, CPU, only="base") == tmp_path / "base" / "checkpoint"
    first, tensors = load_state(tmp_path / "base" / "state.pt") or pytest.fail("no state")
    train_plan(plan, tmp_path, CPU, only="sft")
    second, _ = load_state(tmp_path / "sft" / "state.pt") or pytest.fail("no state")
    assert second.step > first.step > 0
    assert second.total_cpu_s > first.total_cpu_s
    assert set(tensors["model"]) == set(torch.load(tmp_path / "sft" / "state.pt", weights_only=True)["model"])
    mean = RunConfig("mean", start="sft", average=("base", "sft"))
    plan = replace(plan, runs=(*plan.runs, mean), arms=("mean",))
    assert train_plan(plan, tmp_path, CPU, only="mean") == tmp_path / "mean" / "checkpoint"
    third, averaged = load_state(tmp_path / "mean" / "state.pt") or pytest.fail("no state")
    assert third.queries == second.queries and is_finished(tmp_path / "mean", mean)
    ended = load_state(tmp_path / "sft" / "state.pt") or pytest.fail("no state")
    for name, value in averaged["model"].items():
        torch.testing.assert_close(value, (tensors["model"][name] + ended[1]["model"][name]) / 2)
    both = RunConfig("both", start="sft", average=("base", "sft"), shares=(0.5, 1.0))
    added = replace(plan, runs=(*plan.runs, both), arms=("both",), adopt=str(tmp_path / "base" / "checkpoint"))
    train_plan(added, tmp_path, CPU, only="both")
    summed = load_state(tmp_path / "both" / "state.pt") or pytest.fail("no state")
    for name, value in summed[1]["model"].items():  # base has learnt nothing since base: what is left is sft, to bf16
        torch.testing.assert_close(value, ended[1]["model"][name], rtol=1e-2, atol=1e-3)
    before = (tmp_path / "base" / "state.pt").stat().st_mtime_ns
    train_plan(plan, tmp_path, CPU, only="base")
    assert (tmp_path / "base" / "state.pt").stat().st_mtime_ns == before
