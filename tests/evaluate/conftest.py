"""The pictures of the measuring tests, and data over them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark.conftest import frames_dir

__all__ = ["frames_dir"]

SIZES = {"a.png": (96, 64), "b.png": (64, 80)}


def egm_row(image: str, expression: str, box: list[float]) -> dict[str, Any]:
    """A row as EGM's evaluation files have it."""
    width, height = SIZES[image]
    return {"image": image, "sent": expression, "bbox": box, "width": width, "height": height}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine rows over two pictures in two splits' style."""
    rows = [egm_row("ab"[i // 5] + ".png", f"thing {i}", [2.0 * i, 3.0, 40.0 + i, 50.0]) for i in range(9)]
    return write_lines(tmp_path / "refcoco_testA.jsonl", rows)
