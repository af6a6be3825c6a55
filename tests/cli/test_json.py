"""`--json`: every verb and every part of one has it, and prints one line an answer."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egm_edge.cli import VERBS, main
from egm_edge.cli.parser import Parser

FRAME = Path(__file__).resolve().parents[2] / "examples" / "frames" / "tabletop_1.png"
WITHOUT = {"completion"}  # prints a script for a shell
# Parts that a verb tells apart before argparse sees them.
PARTS = {"measure": ("compare", "ros"), "evaluate": ("score", "compare"), "train": ("sft", "grpo", "plan", "export-verl")}


class _ParsingError(Exception):
    """Holds the parser that a verb was about to use."""


def parser_of(verb: str, *part: str) -> argparse.ArgumentParser:
    module, _, function = VERBS[verb].target.partition(":")
    with pytest.MonkeyPatch.context() as patch:

        def stop(parser: Parser, *_: object, **__: object) -> None:
            raise _ParsingError(parser)

        patch.setattr(Parser, "parse_args", stop)
        with pytest.raises(_ParsingError) as found:
            getattr(importlib.import_module(module), function)(list(part))
    parser: argparse.ArgumentParser = found.value.args[0]
    return parser


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Name and parser of every verb, part and subcommand."""
    for verb in VERBS:
        if verb == "train":
            pytest.importorskip("torch", reason="training needs torch; install the train extra")
        for part in PARTS.get(verb, ()):
            yield f"{verb} {part}", parser_of(verb, part)
        parser = parser_of(verb)
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            yield verb, parser
        for name, sub in below[0].choices.items() if below else ():
            if name not in PARTS.get(verb, ()):
                yield f"{verb} {name}", sub


def test_every_verb_has_json() -> None:
    found = dict(parsers())
    assert len(found) > len(VERBS)
    without = {name for name, parser in found.items() if "--json" not in parser._option_string_actions}
    assert without == WITHOUT
    foreign = {name for name, parser in found.items() if not isinstance(parser, Parser)}
    assert foreign == set()  # argparse's own parser would tell a usage error in several lines


ROW = {"image": FRAME.name, "expression": "the red bowl", "box": [22, 84, 161, 163], "width": 640, "height": 480}
ROWS = json.dumps(ROW | {"split": "train"})


@pytest.mark.parametrize(
    "line",
    [
        "ground FRAME bowl", "targets", "targets rtx", "recommend", "inspect", "inspect egm-nano", "doctor",
        "setup edgellm --dry-run",
        "data flip rows.jsonl -o flipped.jsonl", "data split rows.jsonl -o splits", "data check . --images FRAMES",
        "data leaks rows.jsonl --evaluation rows.jsonl -o kept.jsonl", "train plan qwen3-vl-2b-modal-sft",
        "track FRAME --box 22,84,161,163",
    ],
)  # fmt: skip
def test_each_line_is_json(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS + "\n")
    words = {"FRAME": str(FRAME), "FRAMES": str(FRAME.parent)}
    assert main([*(words.get(word, word) for word in line.split()), "--json"]) in (0, 2)
    told = capsys.readouterr().out.splitlines()
    assert told
    for one in told:
        assert isinstance(json.loads(one), (dict, list))


def test_a_server_tells_its_address_as_json() -> None:
    command = [sys.executable, "-m", "egm_edge.cli", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            assert json.loads(server.stdout.readline())["url"].startswith("http://127.0.0.1:")
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
