"""Real GRPOTrainer steps on tiny checkpoints of both families, with pictures and every reward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egm_edge.errors import BackendError, InputError
from tests.training_stages.runs import grpo_yaml, write_data
from tests.training_stages.test_sft import _moved
from training import grpo
from training.stage_config import GrpoConfig, load_grpo


def _config(tmp_path: Path, checkpoint: Path, overrides: dict[str, str] | None = None, **changes: str) -> GrpoConfig:
    data = write_data(tmp_path)
    path = grpo_yaml(tmp_path / "grpo.yaml", checkpoint, data, tmp_path / "out", **changes)
    # Random weights earn nothing for boxes; a price on every token gives the group something to tell apart.
    prices = '{"latency": {"free_ms": 0.0, "ms_per_token": 200.0, "price_per_s": 1.0, "limit": 10.0}}'
    return load_grpo(str(path), {"reward_settings": prices} | (overrides or {}))


@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_grpo_moves_what_it_should_and_leaves_a_checkpoint(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint: Path = request.getfixturevalue(family)
    final = grpo.run_grpo(_config(tmp_path, checkpoint, batch_per_device="4", accumulation="2"))
    record = json.loads((final / "egm_training.json").read_text())
    assert (record["stage"], record["steps"], record["measured"]) == ("grpo", 2, None)
    assert "nothing was measured" in (final / "README.md").read_text()
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    logs = [entry for entry in state["log_history"] if "reward" in entry]
    assert {f"rewards/{n}/mean" for n in ("grounding", "format", "latency", "not_there")} <= logs[0].keys()
    assert any(entry["rewards/latency/std"] > 0 for entry in logs) and "kl" in logs[0]
    assert _moved(checkpoint, final) == {"language_model": True, "projector": True, "vision": False}


def test_policy_arguments_follow_the_recipe() -> None:
    qwen = grpo.policy_arguments(load_grpo("qwen3-vl-8b-modal-grpo"))
    assert (qwen["beta"], qwen["temperature"], qwen["top_p"], qwen["top_k"]) == (0.005, 0.7, 0.9, 50)
    assert (qwen["importance_sampling_level"], qwen["loss_type"], qwen["num_iterations"]) == ("sequence", "grpo", 1)
    internvl = grpo.policy_arguments(load_grpo("internvl3-8b-amodal-grpo"))
    assert (internvl["beta"], internvl["entropy_coef"], internvl["temperature"], internvl["top_k"]) == (
        0.0,
        0.01,
        1.0,
        0,
    )


def test_vllm_is_refused_where_it_cannot_run(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    pytest.importorskip("torch")
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match=r"rollouts\.engine: transformers"):
        grpo.run_grpo(_config(tmp_path, tiny_qwen3_vl, {"rollouts.engine": "vllm"}))


def test_half_a_group_is_refused(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    with pytest.raises(InputError, match="divisible by 4 generations"):
        grpo.run_grpo(_config(tmp_path, tiny_qwen3_vl, batch_per_device="3"))


def test_step_zero_stops_a_policy_that_cannot_be_read(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    with pytest.raises(InputError, match=r"parse rate.*blank picture.*step0_checks: false"):
        grpo.run_grpo(_config(tmp_path, tiny_qwen3_vl, step0_checks="true"))
