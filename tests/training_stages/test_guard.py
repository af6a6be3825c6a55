"""Runs that go wrong say so: numbers that are none, memory that runs out, settings that may and may not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from egm_edge.errors import BackendError, CheckpointError
from tests.training_stages.runs import grpo_yaml, sft_yaml, write_data
from training import grpo, sft
from training.stage_config import SftConfig, load_grpo, load_sft
from training.stages import samples
from training.stages.guard import DivergedError, memory_explained
from training.stages.session import _lower_memory


def _sft(tmp_path: Path, checkpoint: Path, overrides: dict[str, str] | None = None, **changes: str) -> SftConfig:
    path = sft_yaml(tmp_path / "sft.yaml", checkpoint, write_data(tmp_path), tmp_path / "out", **changes)
    return load_sft(str(path), overrides)


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_rows(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    """One weight of the language model is NaN, as a broken download or a diverged run leaves it."""
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for path in tiny_qwen3_vl.iterdir():
        (poisoned / path.name).write_bytes(path.read_bytes())
    weights = load_file(poisoned / "model.safetensors")
    weights["model.language_model.norm.weight"][0] = float("nan")
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        DivergedError, match=r"finite loss at step 1; found nan in the batch of rows train-\d"
    ) as caught:
        sft.run_sft(_sft(tmp_path, poisoned))
    assert caught.value.exit_code == 7
    assert not (tmp_path / "out" / "final").exists() and not list((tmp_path / "out").glob("checkpoint-*"))


def test_a_gradient_that_is_no_number_stops_grpo_before_the_weights_move(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import GRPOTrainer

    def infinite(self: Any, model: Any, grad_norm: Any = None) -> float:
        return float("inf")

    monkeypatch.setattr(GRPOTrainer, "_get_grad_norm", infinite)
    path = grpo_yaml(tmp_path / "c.yaml", tiny_qwen3_vl, write_data(tmp_path), tmp_path / "out")
    with pytest.raises(DivergedError, match=r"finite gradient norm at step 1; found inf in the batch of rows train-\d"):
        grpo.run_grpo(load_grpo(str(path)))
    assert not (tmp_path / "out" / "final").exists()


def test_resume_takes_changes_that_do_not_change_the_result_and_names_the_others(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    collate = samples.SftCollator.__call__

    def counted(self: samples.SftCollator, items: list[Any]) -> dict[str, Any]:
        steps.append(len(items))
        if len(steps) == 3:
            raise KeyboardInterrupt
        return collate(self, items)

    with monkeypatch.context() as patched:
        patched.setattr(samples.SftCollator, "__call__", counted)
        with pytest.raises(KeyboardInterrupt):
            sft.run_sft(_sft(tmp_path, tiny_qwen3_vl, max_steps="3"))
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    with pytest.raises(CheckpointError, match=r"optim\.learning_rate 0\.001 -> 0\.002"):
        sft.run_sft(_sft(tmp_path, tiny_qwen3_vl, {"run.workers": "1"}, max_steps="3", learning_rate="2.0e-3"))
    harmless = {
        "run.workers": "1",
        "run.keep": "5",
        "run.log_steps": "2",
        "run.card_tokens": "9",
        "run.offload": "true",
    }
    final = sft.run_sft(_sft(tmp_path, tiny_qwen3_vl, harmless, max_steps="3", save_steps="3"))
    assert json.loads((final / "egm_training.json").read_text())["steps"] == 3
    state = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["log_history"][0]["step"] == 1  # the steps of the first run are still in the log


def test_memory_that_runs_out_names_what_to_lower() -> None:
    hint = _lower_memory(load_grpo("qwen3-vl-8b-modal-grpo"))
    for name in (
        "run.batch_per_device (16)",
        "sampling.max_tokens (2048)",
        "rollouts.gpu_memory (0.8)",
        "egm train plan",
    ):
        assert name in hint
    with pytest.raises(BackendError, match=r"CUDA out of memory; lower run\.batch_per_device"), memory_explained(hint):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    with pytest.raises(RuntimeError, match="shapes"), memory_explained(hint):
        raise RuntimeError("shapes differ")


def test_grpo_validates_before_and_during_and_keeps_the_best(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    data, val = write_data(tmp_path), write_data(tmp_path, 4, split="val", first=100)
    path = grpo_yaml(tmp_path / "c.yaml", tiny_qwen3_vl, data, tmp_path / "out", validation=f"[{val}]", eval_steps="1")
    final = grpo.run_grpo(load_grpo(str(path), {"run.rollout_steps": "1"}))
    looks = [json.loads(line) for line in (tmp_path / "out" / "validation.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [0, 1, 2] and all(look["count"] == 4 for look in looks)
    best = tmp_path / "out" / "best"
    assert load_file(best / "model.safetensors").keys() == load_file(final / "model.safetensors").keys()
    assert (best / "tokenizer.json").is_file() and (tmp_path / "out" / "validation.svg").is_file()
    (shown,) = (tmp_path / "out" / "rollouts").glob("step-000001.jsonl")
    first = json.loads(shown.read_text().splitlines()[0])
    assert len(first["answers"]) == 4 and first["row"].startswith("train-")
    assert list((tmp_path / "out" / "rollouts").glob("step-000001-*.jpg"))
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    log = next(entry for entry in state["log_history"] if "reward" in entry)
    assert {"reward", "kl", "entropy", "completions/mean_length", "parse_rate", "frac_reward_zero_std"} <= log.keys()
