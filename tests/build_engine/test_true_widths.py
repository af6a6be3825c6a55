"""Checkpoints of EGM-4B's true widths and vocabulary, few layers: built for a CPU within a memory bound and asked there, and
built for RTX and other CUDA GPUs, whose graphs are compared with transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egm_edge.bundle import Bundle
from tests.support.large_checkpoints import write_qwen3_vl_dims

BUILD_PEAK_MB = 3000

BUILD = """
import sys
from build_engine.cli import main
from egm_edge.machine import peak_rss_mb
main(sys.argv[1:])
print(peak_rss_mb())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_egm_4b_widths_build_and_run(tmp_path: Path) -> None:
    checkpoint = write_qwen3_vl_dims(tmp_path / "checkpoint", "egm-4b-widths", text_layers=3, vision_layers=3)
    bundle = tmp_path / "bundle"
    arguments = [str(checkpoint), "--precision", "int4", "--no-gate", "--quiet", "-o", str(bundle)]
    built = subprocess.run([sys.executable, "-c", BUILD, *arguments], check=True, capture_output=True, text=True)
    assert 0 < float(built.stdout.split()[-1]) < BUILD_PEAK_MB
    picture = tmp_path / "frame.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(picture)
    command = [sys.executable, "-m", "egm_edge.cli", "ground", str(picture), "the red mug", "the kettle"]
    ran = subprocess.run(
        [*command, "--bundle", str(bundle), "--json", "--max-new-tokens", "4"],
        check=True,
        capture_output=True,
        text=True,
    )
    first, second = (json.loads(line) for line in ran.stdout.splitlines())
    assert first["tokens"]["image"] == 300
    assert first["tokens"]["completion"] == second["tokens"]["completion"] == 4
    assert second["timings"]["frame_reused"]


GPU_BUILD = """
import sys
from build_engine.cli import main
from build_engine.parity import build_gate
build_gate.MAX_PARAMETERS = 2_000_000_000  # this machine has room for the reference
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long  # the gate at these widths takes minutes
@pytest.mark.timeout(2400)
def test_egm_4b_widths_build_for_rtx(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'egm-edge[rtx]'")
    checkpoint = write_qwen3_vl_dims(tmp_path / "checkpoint", "egm-4b-widths", text_layers=2, vision_layers=3)
    arguments = ["--target", "rtx", "--precision", "fp16", "--max-pixels", "1048576", "--quiet", "-o", "bundle"]
    command = [sys.executable, "-c", GPU_BUILD, str(checkpoint), *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    manifest = Bundle.open(tmp_path / "bundle").manifest
    graphs = manifest.parity["graphs"]
    assert graphs["status"] == "verified", graphs
    stages = {stage["name"]: stage for stage in graphs["stages"]}
    assert stages["prefill logits"]["passed"] and stages["deep-stack"]["passed"]
    sizes = {name: record.bytes for name, record in manifest.files.items() if name.startswith("engines")}
    head_bytes = 2560 * 151936 * 2
    assert max(sizes.values()) >= head_bytes and sum(sizes.values()) > 1.4e9
