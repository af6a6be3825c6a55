"""The package as a whole: what is installed, what it imports, and which room may import which."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "rclpy", "onnx", "build_engine", "training")
# the reference backend is transformers itself and the GPU engine PyTorch; both are imported when they are asked for
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "egm_edge").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py", "transformers_reference.py") and path.parent.name != "torch_gpu"
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


ROOMS = {"egm_edge": "egm_edge", "build_engine": "build_engine", "training": "training", "egm_ros": "ros2_ws/src"}
MAY_IMPORT = {"egm_edge": set(), "build_engine": {"egm_edge"}, "training": {"egm_edge"}, "egm_ros": {"egm_edge"}}
# From the ground up: a module imports from its own floor and those below it.
FLOORS = (
    "errors closing hashing boxes grounding expression _decoding_in_place images machine files encoding assets releases "
    "own_packages webcam",
    "_resample _processor_config pixels families parsing decoding data synthetic tracking reporting bundle draw",
    "bundle_from_checkpoint sources openai backends confidence golden",
    "loaded_model frame grounding_request assembly pipeline",
    "streaming grounder auto",
    "evaluate benchmark doctor",
    "serve cli",
)
MOST_LINES = 400


def _sources(package: str) -> dict[str, Path]:
    """Files by module name."""
    root = ROOT / ROOMS[package]
    paths = [path for path in root.rglob("*.py") if not {"install", "build"} & set(path.relative_to(root).parts)]
    named = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


def _imports(path: Path, *, typing: bool) -> Iterator[str]:
    """What a file imports, wherever it stands; with `typing` also what only type checkers see."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not typing:
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo += ast.iter_child_nodes(node)


def _circles(edges: Mapping[str, set[str]]) -> list[str]:
    """What is left when whatever imports nothing that is left is taken away again and again, and the same from above."""
    left = {node: {other for other in others if other != node} for node, others in edges.items()}
    for reversed_ in (False, True):
        if reversed_:
            left = {node: {other for other, others in left.items() if node in others} for node in left}
        while free := [node for node, others in left.items() if not others & left.keys()]:
            left = {node: others for node, others in left.items() if node not in free}
    return sorted(left)


@pytest.mark.parametrize("package", list(ROOMS))
def test_packages_import_only_what_they_may(package: str) -> None:
    others = ROOMS.keys() - {package} - MAY_IMPORT[package]
    wrong = {
        f"{name}: {found}"
        for name, path in _sources(package).items()
        for found in _imports(path, typing=True)
        if found.split(".")[0] in others
    }
    assert not wrong


def test_no_circle_between_files_or_folders_and_no_import_from_a_higher_floor() -> None:
    sources = _sources("egm_edge")
    files: dict[str, set[str]] = {}
    for name, path in sources.items():
        found = {i if i in sources else i.rpartition(".")[0] for i in _imports(path, typing=False)} & sources.keys()
        files[name] = found - {name, "egm_edge"}
    assert _circles(files) == []

    rooms: dict[str, set[str]] = {}
    for name, found in files.items():
        rooms.setdefault(".".join(name.split(".")[:2]), set()).update(".".join(i.split(".")[:2]) for i in found)
    assert _circles(rooms) == []

    floor_of = {f"egm_edge.{room}": floor for floor, names in enumerate(FLOORS) for room in names.split()}
    assert rooms.keys() - {"egm_edge"} == floor_of.keys(), "every file and folder has its floor"
    higher = [
        f"{room} imports {other}"
        for room, others in rooms.items()
        for other in others
        if room != "egm_edge" and floor_of[other] > floor_of[room]
    ]
    assert higher == []


def test_no_class_name_stands_for_two_things_and_no_file_is_long() -> None:
    homes: dict[str, set[str]] = {}
    for package in ROOMS:
        for name, path in _sources(package).items():
            text = path.read_text(encoding="utf-8")
            assert text.count("\n") <= MOST_LINES, path
            room = ".".join(name.split(".")[: 2 if package == "egm_edge" else 1])
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, set()).add(room)
    assert {name: rooms for name, rooms in homes.items() if len(rooms) > 1} == {}


def test_what_another_program_prints_is_read_whatever_its_bytes() -> None:
    starters = ("run", "Popen", "check_output")
    strict = [
        f"{name}:{call.lineno}"
        for package in ROOMS
        for name, path in _sources(package).items()
        if "subprocess." in (source := path.read_text(encoding="utf-8"))
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in {f"subprocess.{starter}" for starter in starters}
        and {"text", "universal_newlines", "encoding"} & (given := {word.arg for word in call.keywords})
        and "errors" not in given
    ]  # fmt: skip
    assert not strict, "text without errors=: one byte that is not UTF-8 would end the program with a traceback"


def test_the_tour_of_the_house_passes_files_that_are_there_and_none_twice_but_the_grounder() -> None:
    tour = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    passed = re.findall(r"^\d+\. `([^`]+)`", tour, re.MULTILINE)
    assert [path for path in passed if not (ROOT / path).is_file()] == []
    once = [path for path in passed if path != "egm_edge/grounder.py"]
    assert len(once) == len(set(once)) > 30


def test_the_base_install_is_light() -> None:
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]}
    server = {"prometheus-client", "pydantic", "starlette", "uvicorn"}  # 4 MB, so that `egm serve` needs no extra
    assert base - server == {"numpy", "onnxruntime", "opencv-python-headless", "pillow", "tokenizers", "tqdm"}
    assert metadata("egm-edge")["License-Expression"] == "Apache-2.0"


@pytest.mark.slow
def test_the_wheel_carries_all_packages_and_the_shipped_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that no build folder of an earlier run adds its leftovers
    for room in ("egm_edge", "build_engine", "training"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    (described,) = (name for name in names if name.endswith("dist-info/METADATA"))
    shown = zipfile.ZipFile(wheel).read(described).decode()
    assert "\nAuthor: egm-edge maintainers\n" in shown and "\n# egm-edge\n" in shown
    assert re.findall(r"\]\((?!https?://)[^)]*\)", shown) == []  # a package index has none of the files beside README.md
    for name in ("egm_edge/cli/ground.py", "build_engine/manifest.py", "training/__init__.py", "egm_edge/py.typed"):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "examples", "ros2_ws"))]
    for path in (ROOT / "egm_edge" / "assets").rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in names
