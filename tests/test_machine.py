"""What the driver says of its GPUs, as the doctor, the recommendation and the engine's record read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_engine.edge_llm.device import gpu_facts
from build_engine.recommend import this_machine
from egm_edge import doctor
from egm_edge.machine import nvidia_gpus

DRIVER = """#!/bin/sh
for field in $(echo "$1" | sed 's/.*=//; s/,/ /g'); do
    case $field in
        name) printf '%s' 'NVIDIA L4' ;; memory.total) printf '%s' '23034 MiB' ;;
        driver_version) printf '%s' 570.86 ;; compute_cap) printf '%s' 8.9 ;;
    esac
    [ "$field" = "${1##*[,=]}" ] && echo || printf '%s' ', '
done
"""


def test_one_query_serves_everyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(DRIVER)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert nvidia_gpus("name", "compute_cap") == [["NVIDIA L4", "8.9"]]
    assert gpu_facts() == {"gpu": "NVIDIA L4", "driver": "570.86", "compute_capability": "8.9"}
    assert any(finding.found == "NVIDIA L4, 23034 MiB, 570.86, 8.9" for finding in doctor.examine())
    target, usable_gb = this_machine()
    assert "sm89" in target.sm and usable_gb == pytest.approx(23034 * 1.048576e-3 - 1.0)


def test_no_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_gpus("name") == [] and gpu_facts() == {}
