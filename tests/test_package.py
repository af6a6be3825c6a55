"""The package as a whole: what is installed, what it imports, and which room may import which."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "rclpy", "onnx", "build_engine", "training")
# the reference backend is transformers itself; it is imported by name only
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "egm_edge").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py", "transformers_reference.py")
)


def test_no_module_of_egm_edge_imports_anything_heavy() -> None:
    code = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module(name)
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("room", "forbidden"), [("egm_edge", {"build_engine", "training", "egm_ros"}), ("build_engine", {"training", "egm_ros"})]
)
def test_rooms_import_only_what_they_may(room: str, forbidden: set[str]) -> None:
    wrong = []
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] in forbidden]
    assert wrong == []


def test_the_base_install_is_light() -> None:
    base = [re.split(r"[^\w.-]", r)[0] for r in requires("egm-edge") or [] if "extra ==" not in r]
    assert sorted(base) == ["numpy", "onnxruntime", "opencv-python-headless", "pillow", "tokenizers", "tqdm"]
    assert metadata("egm-edge")["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_the_wheel_carries_all_packages_and_the_shipped_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that no build folder of an earlier run adds its leftovers
    for room in ("egm_edge", "build_engine", "training"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("egm_edge/cli/ground.py", "build_engine/manifest.py", "training/__init__.py", "egm_edge/py.typed"):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "examples", "ros2_ws"))]
    for path in (ROOT / "egm_edge" / "assets").rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in names
