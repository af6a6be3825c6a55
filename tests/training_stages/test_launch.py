"""Real DeepSpeed on two CPU processes, real SIGKILL; and the guard against DeepSpeed being ignored."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from egm_edge.errors import BackendError
from tests.training_stages.runs import grpo_yaml, sft_yaml, write_data
from tests.training_stages.test_sft import _moved
from training.stages.launch import DeepSpeedProof, deepspeed_config, launch_arguments

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _torchrun(stage: str, config: Path) -> str:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(_free_port()),
    ]
    done = subprocess.run(
        [*launcher, "-m", "egm_edge.cli", "train", stage, str(config)], env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage", "family", "dtype"),
    [
        pytest.param("zero2", "sft", "tiny_qwen3_vl", "float32", id="ZeRO-2 SFT Qwen3-VL", marks=pytest.mark.long),
        pytest.param("zero3", "sft", "tiny_internvl3", "bfloat16", id="ZeRO-3 SFT InternVL3, 16 bit"),
        pytest.param("zero2", "grpo", "tiny_qwen3_vl", "float32", id="ZeRO-2 GRPO Qwen3-VL"),
        pytest.param("zero3", "grpo", "tiny_qwen3_vl", "float32", id="ZeRO-3 GRPO Qwen3-VL", marks=pytest.mark.long),
    ],
)
def test_two_processes_train_in_a_real_deepspeed_engine(
    kind: str, stage: str, family: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    checkpoint: Path = request.getfixturevalue(family)
    write = sft_yaml if stage == "sft" else grpo_yaml
    prices = "reward_settings: {latency: {free_ms: 0.0, ms_per_token: 200.0, price_per_s: 1.0, limit: 10.0}}\n"
    path = write(
        tmp_path / "c.yaml", checkpoint, write_data(tmp_path), tmp_path / "out", deepspeed=kind, save_steps="2"
    )
    if stage == "grpo":
        path.write_text(path.read_text() + prices)
    _torchrun(stage, path)
    final = tmp_path / "out" / "final"
    record = json.loads((final / "egm_training.json").read_text())
    # type(trainer.model_wrapped).__name__, taken when the first step began
    assert (record["wrapped"], record["processes"], record["steps"]) == ("DeepSpeedEngine", 2, 2)
    moved = _moved(checkpoint, final)
    assert moved["language_model"] and not moved["vision"]
    AutoModelForImageTextToText.from_pretrained(final)


@pytest.mark.slow
def test_sigkill_and_the_same_command_again_finishes(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    outputs = {}
    for name in ("straight", "killed"):
        path = sft_yaml(tmp_path / f"{name}.yaml", tiny_qwen3_vl, data, tmp_path / name, max_steps="4")
        command = [sys.executable, "-m", "egm_edge.cli", "train", "sft", str(path)]
        if name == "killed":
            process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 120
            while len(list((tmp_path / name).glob("checkpoint-*/complete.json"))) < 1:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (tmp_path / name / "final").exists()
        subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
        outputs[name] = load_file(tmp_path / name / "final" / "model.safetensors")
    assert all(torch.equal(outputs["straight"][key], outputs["killed"][key]) for key in outputs["straight"])


def test_a_run_that_silently_lost_deepspeed_is_stopped() -> None:
    proof = DeepSpeedProof("zero3")
    proof.trainer = SimpleNamespace(model_wrapped=torch.nn.Linear(1, 1))
    with pytest.raises(BackendError, match="DeepSpeedEngine"):
        proof.on_step_begin(None, None, None)  # type: ignore[arg-type]


def test_deepspeed_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(BackendError, match="torchrun"):
        launch_arguments("zero2", "float32")


def test_deepspeed_settings() -> None:
    assert deepspeed_config("none", "bfloat16") is None
    zero3 = deepspeed_config("zero3", "bfloat16") or {}
    assert zero3["zero_optimization"]["stage"] == 3 and zero3["bf16"]["enabled"]
    assert zero3["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
    assert (deepspeed_config("zero2", "float32") or {})["bf16"] == {"enabled": False}
