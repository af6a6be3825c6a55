"""Fixtures of the tests that run NVIDIA's tools: the environment, checkpoints that its kernels know, calibration rows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from build_engine.edge_llm.environment import EdgeLlmEnvironment
from egm_edge.errors import BuildError


@pytest.fixture(scope="session")
def edge_llm() -> EdgeLlmEnvironment:
    """The real environment."""
    try:
        return EdgeLlmEnvironment.find()
    except BuildError as error:
        pytest.skip(f"needs NVIDIA's exporter: {error}")


@pytest.fixture(scope="session")
def jetson_qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL whose heads and widths TensorRT Edge-LLM has kernels for, two deep-stack layers."""
    pytest.importorskip("transformers", reason="writes the checkpoint; install the test extra")
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "vision_size": 256, "text_layers": 2}
    return write_tiny_qwen3_vl(tmp_path_factory.mktemp("jetson_qwen3_vl"), dtype="bfloat16", vision_layers=2, **shape)


@pytest.fixture(scope="session")
def jetson_internvl3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of InternVL3."""
    pytest.importorskip("transformers", reason="writes the checkpoint; install the test extra")
    from tests.support.tiny_checkpoints import write_tiny_internvl3

    shape = {"hidden_size": 256, "intermediate_size": 512, "vision_size": 256, "text_layers": 2}
    return write_tiny_internvl3(tmp_path_factory.mktemp("jetson_internvl3"), dtype="bfloat16", **shape)


@pytest.fixture(scope="session")
def calibration_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grounding rows with pictures."""
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    lines = []
    for i, (width, height) in enumerate(((160, 120), (96, 128))):
        picture = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        row = {
            "image": f"{i}.png",
            "expression": "the red mug",
            "box": [10, 20, 60, 70],
            "width": width,
            "height": height,
        }
        lines.append(json.dumps(row))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path
