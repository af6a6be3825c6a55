"""The GPU check on a CPU: the whole of it runs, and its reckoning counts what the engine launches."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from egm_edge.backends.torch_gpu.backend import TorchBackend  # noqa: E402
from egm_edge.bundle_from_checkpoint import describe_checkpoint  # noqa: E402
from tests.bench import gpu_check  # noqa: E402
from tests.bench.gpu_reckoning import SMALL_KERNELS, table  # noqa: E402
from tests.support.tiny_checkpoints import write_tiny_qwen3_vl  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
VIEWS = {"slice", "view", "unsqueeze", "select", "permute", "transpose", "chunk"}
COUNTED_APART = {"linear", "scaled_dot_product_attention"}


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_the_reckoning_counts_a_layers_launches(tmp_path: Path) -> None:
    names = []
    for layers in (2, 3):
        checkpoint = write_tiny_qwen3_vl(tmp_path / str(layers), text_layers=layers)
        backend = TorchBackend(describe_checkpoint(checkpoint), device="cpu")
        with _Counted() as counted:
            backend.run(np.array([[1]]), np.array([[5]]), 0, backend.cache)
        names.append(counted.names)
    layer = names[1] - names[0]
    assert layer["linear"] == 4 and layer["scaled_dot_product_attention"] == 1
    small = sum(count for name, count in layer.items() if name not in VIEWS | COUNTED_APART)
    assert small + 1 == SMALL_KERNELS  # one norm copies its strided input first


def test_the_page_holds_the_reckoning() -> None:
    assert table() in (ROOT / "docs/gpu.md").read_text("utf-8")


@pytest.mark.long
def test_the_whole_check_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [str(ROOT / ".ci/gpu_check.sh"), "--tiny", str(tmp_path / "out")]
    environment = os.environ | {"PYTHON": sys.executable, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    assert len(list(out.iterdir())) <= 8
    parity = json.loads((out / "parity.json").read_text("utf-8"))
    for name in ("egm-nano", "qwen3_vl", "internvl3"):
        assert parity[name]["float32"]["logits differ from transformers by at most"] < 1e-3
        assert parity[name]["float32"]["graphs differ from plain calls by at most, of the largest logit"] < 1e-5
        assert parity[name]["one text"]  # float32 both, on a CPU
    for model in ("2b", "4b", "8b"):
        measured = json.loads((out / f"measure-{model}.json").read_text("utf-8"))
        assert measured["64x48"]["4 votes"]["total_ms"]["p50"] > 0 and measured["beside"]["ratio"] > 0
        assert f"| {model} |" in (out / "report.md").read_text("utf-8")
    assert json.loads((out / "train.json").read_text("utf-8"))["rc"] in (0, 130)  # 130: stopped by --minutes, saved
    assert not list(tmp_path.glob("gpu_check.*"))


@pytest.mark.long
def test_a_part_that_fails_costs_no_other(tmp_path: Path) -> None:
    """The time ends early: what came before is kept, and the report says what was cut."""
    command = [str(ROOT / ".ci/gpu_check.sh"), "--tiny", str(tmp_path / "out")]
    environment = os.environ | {"PYTHON": sys.executable, "TMPDIR": str(tmp_path), "GPU_CHECK_SECONDS": "12"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1 and "train" in done.stdout.splitlines()[-1]
    assert "# The PyTorch engine" in (tmp_path / "out/report.md").read_text("utf-8")


@pytest.mark.slow
def test_where_graphs_fail_the_rest_is_measured_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = gpu_check.opened

    def opened(checkpoint: Path, dtype: Any = None, *, plain: bool = False) -> Any:
        if not plain:
            raise RuntimeError("operation not permitted when stream is capturing")
        return plainly(checkpoint, dtype, plain=True)

    monkeypatch.setattr(gpu_check, "opened", opened)
    options = argparse.Namespace(work=tmp_path)
    with pytest.raises(SystemExit, match="3"):
        gpu_check.parity(gpu_check.Findings(tmp_path / "parity.json"), options)
    parity = json.loads((tmp_path / "parity.json").read_text("utf-8"))
    assert parity["graphs_work"] is False and "not permitted" in parity["internvl3"]["16 bits"]["graphs"]
    script = (ROOT / ".ci/gpu_check.sh").read_text("utf-8")
    assert "plain=(--plain)" in script
