"""Temporary folders of graphs: gone at the end, and what a killed run left of them at the next one's start."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from build_engine.parity.float32_graphs import FOLDER_PREFIX, linked_folder
from egm_edge.bundle import Bundle


def _copied(name: str, source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def test_what_killed_runs_left_is_removed_and_what_lives_is_not(
    tiny_cpu_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, begun = tmp_path / f"{FOLDER_PREFIX}left", tmp_path / f"{FOLDER_PREFIX}begun"
    for folder in (left, begun):
        folder.mkdir()
    (left / "decoder.onnx.data").write_bytes(b"0")
    with linked_folder(tiny_cpu_bundle, _copied) as held:
        assert not left.exists() and begun.is_dir()
        files = sorted(held.rglob("*"))
        with linked_folder(tiny_cpu_bundle, _copied) as other:
            assert other != held and sorted(held.rglob("*")) == files != []
    assert list(tmp_path.iterdir()) == [begun]
