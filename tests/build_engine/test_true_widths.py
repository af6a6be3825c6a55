"""A checkpoint of EGM-4B's true widths and vocabulary, few layers, builds and answers within a memory bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
