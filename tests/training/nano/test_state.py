"""A run's state survives a round trip and a kill in the middle of writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from egm_edge.errors import CheckpointError
from training.nano.state import Progress, cost_of, load_state, save_state


def test_round_trip(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", Progress(step=7, error=31.5), {"model": {"a": torch.ones(2)}})
    progress, tensors = load_state(tmp_path / "state.pt") or pytest.fail("nothing loaded")
    assert progress == Progress(step=7, error=31.5)
    assert torch.equal(tensors["model"]["a"], torch.ones(2))


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state.pt") is None


def test_a_half_written_state_does_not_count(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", Progress(step=1), {})
    (tmp_path / "state.tmp").write_bytes(b"half")
    assert load_state(tmp_path / "state.pt")[0].step == 1  # type: ignore[index]


def test_a_broken_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt.*delete it to start over"):
        load_state(tmp_path / "state.pt")


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
