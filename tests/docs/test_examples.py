"""Every example of README and docs is run as it stands, or says what it needs; what is printed under it is compared.

Run in a folder of its own with the sample pictures (`examples/`, `photo.png`, `frame.png`), the shipped bundle in
`out/egm-nano-cpu` and `rows.jsonl`. Commands that need something else are still checked: their verbs and options exist.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egm_edge.assets import shipped_bundle
from egm_edge.cli import VERBS
from tests.docs.blocks import PAGES, ROOT, Block, blocks, indented_commands

BLOCKS = [block for block in blocks() if block.language in ("bash", "python", "sh")]
RUN = [block for block in BLOCKS if not block.needs]
MARKED = [block for block in BLOCKS if block.needs]
TIMEOUT_S = 600
_INSTALL = ("pip", "make", "sudo", "python3")
_WITH_PARTS = ("train", "data", "measure", "evaluate")  # verbs whose parts have options of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the README has in front of him."""
    root = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", root / "examples")
    shutil.copytree(shipped_bundle(), root / "out" / "egm-nano-cpu")
    frame = ROOT / "examples" / "frames" / "tabletop_1.png"
    for name in ("photo.png", "frame.png", frame.name):
        shutil.copy(frame, root / name)
    (root / "frames").mkdir()
    shutil.copy(frame, root / "frames")
    asked = json.loads((frame.parent / "expressions.json").read_text())[frame.name]
    rows = [
        {"image": frame.name, "expression": each["expression"], "box": each["box_xyxy_px"], "width": 640, "height": 480}
        for each in asked
    ]
    (root / "frames" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(root / "frames" / "rows.jsonl", root)
    return root


def _environment(folder: Path) -> dict[str, str]:
    """`egm` and `python` on the path are this checkout's; nothing is read from the user's own settings."""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name, module in {"egm": "-m egm_edge.cli", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (tools / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EGM_")}
    return kept | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(folder)}


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Host and port of the server that examples ask."""
    command = [sys.executable, "-m", "egm_edge.cli", "serve", "out/egm-nano-cpu", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["url"].removeprefix("http://")
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=[block.name for block in RUN])
def test_the_example_runs_and_prints_what_is_written(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    if block.asks_server:
        printed = _asking(block, folder, request.getfixturevalue("address"))
    elif block.language == "python":
        printed = _python(block.text, folder)
    else:
        printed = "".join(_shell(words, folder) for words in block.commands())
    if block.shown:
        assert _without_times(printed) == _without_times(block.shown)


def _asking(block: Block, folder: Path, address: str) -> str:
    """Against the running server, wherever it listens; Python goes on from what its page did before."""
    text = block.text.replace("127.0.0.1:30000", address)
    if block.language == "python":
        before = [b.text for b in RUN if b.asks_server and b.page == block.page and b.line < block.line and b.language == "python"]
        quiet = "\n".join(before).replace("127.0.0.1:30000", address)
        return _python(f"import contextlib\nwith contextlib.redirect_stdout(None):\n    exec({quiet!r})\n{text}", folder)
    if "curl " in text and not shutil.which("curl"):
        pytest.skip("no curl here")
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _shell(words: list[str], folder: Path) -> str:
    if words[0] in _INSTALL:  # the environment of the tests is what these make
        return ""
    line = " ".join(word if re.fullmatch(r"[\w./*=:-]+", word) else f"'{word}'" for word in words)
    if words[:2] == ["egm", "serve"]:
        return _serve(line, folder)
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    return done.stdout


def _serve(line: str, folder: Path) -> str:
    """Started on any free port, asked for nothing, stopped as a user stops it."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {line} --port 0"], cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline().startswith("serving ")
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    return ""


def _without_times(text: str) -> str:
    """Times differ with the machine, and a confidence with how its processor rounds."""
    return re.sub(r"p=[\d.]+", "p=N", re.sub(r" +[\d.]+ ms", " N ms", text.strip()))


@functools.cache
def _help(verb: str, sub: str = "") -> str:
    command = [sys.executable, "-m", "egm_edge.cli", verb, *([sub] if sub else []), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("block", MARKED, ids=[block.name for block in MARKED])
def test_the_options_of_an_example_that_cannot_run_here_exist(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.name, "exec")
        return
    for words in block.commands():
        if words[0] != "egm":
            continue
        assert words[1] in VERBS, words
        sub = words[2] if words[1] in _WITH_PARTS and re.fullmatch(r"[a-z-]+", "".join(words[2:3])) else ""
        texts = [_help(words[1]), *([_help(words[1], sub)] if sub else [])]
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            assert any(option in text for text in texts), f"{block.name}: {words[1]} has no {option}"


def test_no_command_hides_in_an_indented_block() -> None:
    hidden = {str(path): lines for pattern in PAGES for path in ROOT.glob(pattern) if (lines := indented_commands(path))}
    assert hidden == {}


def test_how_many_examples_run(record_property: pytest.RecordProperty) -> None:
    compared = sum(bool(block.shown) for block in RUN)
    counts = {"run": len(RUN), "compared": compared, "marked": len(MARKED)}
    print(counts)
    record_property("examples", counts)
    assert len(RUN) >= 17 and compared >= 6
