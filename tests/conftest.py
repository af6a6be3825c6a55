"""Fixtures shared by all tests: tiny checkpoints, written once a session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL checkpoint directory with the byte vocabulary."""
    pytest.importorskip("transformers", reason="writes the checkpoint; install the test extra")
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    return write_tiny_qwen3_vl(tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="session")
def tiny_internvl3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InternVL3 checkpoint directory with the byte vocabulary."""
    pytest.importorskip("transformers", reason="writes the checkpoint; install the test extra")
    from tests.support.tiny_checkpoints import write_tiny_internvl3

    return write_tiny_internvl3(tmp_path_factory.mktemp("internvl3"))
