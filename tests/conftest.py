"""Fixtures shared by all tests: tiny checkpoints and a bundle, written once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from egm_edge.bundle import Bundle


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers take whole files in turn: those with slow tests first, so that none is left for one worker at the end."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


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


@pytest.fixture(scope="session")
def tiny_cpu_bundle(tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of it in 32-bit floats, to read and not to change."""
    from build_engine.compilers.cpu import build_cpu

    return build_cpu(tiny_qwen3_vl, tmp_path_factory.mktemp("tiny") / "bundle", precision="fp32", gate=False)


@pytest.fixture
def own_bundle(tiny_cpu_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of it for one test alone."""
    return Bundle.open(shutil.copytree(tiny_cpu_bundle.root, tmp_path / "bundle"))
