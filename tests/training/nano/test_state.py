"""A run's state survives a round trip and a kill in the middle of writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from egm_edge.errors import CheckpointError
from training.nano.state import (
    TrainingProgress,
    carried,
    carry,
    cost_of,
    load_state,
    restart,
    save_best,
    save_state,
    take_best,
)


def test_round_trip(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", TrainingProgress(step=7, error=31.5), {"model": {"a": torch.ones(2)}})
    progress, tensors = load_state(tmp_path / "state.pt") or pytest.fail("nothing loaded")
    assert progress == TrainingProgress(step=7, error=31.5)
    assert torch.equal(tensors["model"]["a"], torch.ones(2))


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pt") is None


def test_a_half_written_state_does_not_count(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", TrainingProgress(step=1), {})
    (tmp_path / "state.tmp").write_bytes(b"half")
    assert load_state(tmp_path / "state.pt")[0].step == 1  # type: ignore[index]


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt.*delete it to start over"):
        load_state(tmp_path / "state.pt")


def test_a_state_is_carried_without_its_optimizer(tmp_path: Path) -> None:
    model = {"model.language_model.embed_tokens.weight": torch.ones(3, 2), "lm_head.weight": torch.ones(3, 2)}
    tensors = {"model": model, "heads": {"b": torch.zeros(1)}, "optimizer": {"big": torch.ones(99)}}
    save_state(tmp_path / "state.pt", TrainingProgress(step=7, stage=1), tensors)
    carry(tmp_path / "state.pt", tmp_path / "s.safetensors")
    progress, found = carried(tmp_path / "s.safetensors")
    assert progress == TrainingProgress(step=7, stage=1) and found["optimizer"] is None
    assert {part: set(found[part]) for part in ("model", "heads")} == {"model": set(model), "heads": {"b"}}
    (tmp_path / "bad").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match="write it with --carry"):
        carried(tmp_path / "bad")


def test_cost_is_summed_over_stages(tmp_path: Path) -> None:
    rows = [
        {"stage": "vision", "stage_cpu_s": 60, "total_cpu_s": 60, "scenes": 5, "queries": 0},
        {"held_out": {}},
        {"stage": "decoder", "stage_cpu_s": 120, "total_cpu_s": 180, "scenes": 9, "queries": 12},
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    cost = cost_of(tmp_path / "log.jsonl")
    assert cost is not None
    assert (cost.cpu_minutes, cost.scenes, cost.queries, cost.stages) == (3.0, 9, 12, "vision 1, decoder 2")


def test_cost_goes_on_over_the_runs_before(tmp_path: Path) -> None:
    for name, row in (
        ("a", {"stage": "base", "stage_cpu_s": 60, "total_cpu_s": 60, "scenes": 5, "queries": 1}),
        ("b", {"stage": "sft", "stage_cpu_s": 30, "total_cpu_s": 90, "scenes": 9, "queries": 12}),
    ):
        (tmp_path / name).write_text(json.dumps(row) + '\n{"cut sho')
    cost = cost_of(tmp_path / "a", tmp_path / "b")
    assert cost is not None
    assert (cost.cpu_minutes, cost.stages) == (1.5, "base 1, sft 0")


def test_a_run_starts_where_another_ended(tmp_path: Path) -> None:
    progress = TrainingProgress(stage=3, step=70, stage_step=5, stage_cpu_s=9.0, total_cpu_s=99.0, scenes=8, queries=7)
    save_state(tmp_path / "state.pt", progress, {"model": {"a": torch.ones(2)}, "heads": {}, "optimizer": {"x": 1}})
    begun, tensors = restart(tmp_path / "state.pt")
    assert begun == TrainingProgress(step=70, total_cpu_s=99.0, scenes=8, queries=7)
    assert tensors["optimizer"] is None and torch.equal(tensors["model"]["a"], torch.ones(2))
    with pytest.raises(CheckpointError, match=r"elsewhere.*train the run it belongs to first"):
        restart(tmp_path / "elsewhere" / "state.pt")


def test_only_better_weights_are_kept(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    kept = []
    for value, score in ((1.0, 0.5), (2.0, 0.7), (3.0, 0.6)):
        model.weight.data.fill_(value)
        kept.append(save_best(tmp_path / "best.pt", score, model, fresh=value == 1.0))
    assert kept == [True, True, False]
    assert take_best(tmp_path / "best.pt", model) == 0.7
    assert model.weight.item() == 2.0
