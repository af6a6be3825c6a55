"""Faithful bundles of small checkpoints, and `egm verify` as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Verify = Callable[[Path], tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl

    directory = tmp_path_factory.mktemp("parity")
    return {
        "qwen3_vl": write_tiny_qwen3_vl(directory / "qwen3_vl", seed=5),
        "internvl3": write_tiny_internvl3(directory / "internvl3", seed=5, max_patches=4),
    }


@pytest.fixture(scope="session")
def bundles(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    from build_engine.compilers.cpu import build_cpu

    out_dir = tmp_path_factory.mktemp("bundles")
    return {
        (family, precision): build_cpu(
            checkpoint, out_dir / f"{family}-{precision}", precision=precision, gate=False
        ).root
        for family, checkpoint in checkpoints.items()
        for precision in ("fp32", "int8")
    }


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], checkpoints: dict[str, Path]) -> Verify:
    """Exit code and report of `egm verify` on a bundle, against the checkpoint of its family."""
    from build_engine.verify_cli import main
    from egm_edge.bundle import Bundle

    def run(bundle: Path) -> tuple[int, dict[str, Any]]:
        family = Bundle.open(bundle, verify="sizes").manifest.family
        capsys.readouterr()
        code = main([str(bundle), "--reference", str(checkpoints[family]), "--json", "--max-new-tokens", "12"])
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, report

    return run
