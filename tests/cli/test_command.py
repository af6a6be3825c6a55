"""The shell of `egm`: help, usage errors, exit codes, and outputs that nobody reads any more."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import egm_edge.cli
from egm_edge import __version__
from egm_edge.cli import VERBS, Verb, main
from egm_edge.errors import BundleError
from tests.cli.conftest import Egm, assert_refused, popen_with_default_signals


def test_help_lists_every_verb_and_answers_at_once(egm: Egm) -> None:
    fastest_s = 9.0
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = egm("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # processor time, which other work on this machine does not stretch
        fastest_s = min(fastest_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert all(f"  {verb}" in done.stdout for verb in VERBS)
    assert fastest_s < 0.3


def test_the_installed_command_is_this_one() -> None:
    script = Path(sys.executable).with_name("egm")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"egm-edge {__version__}\n"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_exists_and_has_help(egm: Egm, verb: str) -> None:
    done = egm(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"egm {verb}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["grond"], ["'grond'", "ground"], id="unknown verb"),
        pytest.param(["ground"], ["IMAGE", "egm ground --help"], id="nothing to ground"),
        pytest.param(["ground", "x.png"], ["TEXT"], id="no text"),
        pytest.param(["ground", "x.png", "mug", "--task", "model"], ["modal"], id="unknown task"),
        pytest.param(["ground", "x.png", "mug", "--threads", "0"], ["from 1 to 512"], id="no threads"),
        pytest.param(["ground", "x.png", "mug", "--speed"], ["--speed"], id="unknown option"),
        pytest.param(["inspect", "a", "b"], ["b"], id="too many arguments"),
    ],
)
def test_usage_errors_are_one_line(egm: Egm, arguments: list[str], words: list[str]) -> None:
    assert_refused(egm(*arguments), 2, *words)


def test_no_verb_shows_the_usage(egm: Egm) -> None:
    done = egm()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: egm VERB")


def fake_verb(monkeypatch: pytest.MonkeyPatch, action: Any, extra: str = "") -> None:
    monkeypatch.setattr(egm_edge.cli, "fake_main", action, raising=False)
    monkeypatch.setitem(VERBS, "fake", Verb("egm_edge.cli:fake_main", "", extra))


def raises(error: BaseException) -> Any:
    def run(argv: list[str]) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(
            BundleError("a", "b", "c"), 4, "egm: expected a; found b; c\n", id="an error of ours has its own exit code"
        ),
        pytest.param(KeyboardInterrupt(), 130, "egm: interrupted\n", id="Ctrl-C"),
        pytest.param(
            OSError(28, "No space left on device", "x"), 1, "egm: x: No space left on device\n", id="full disk"
        ),
        pytest.param(
            ZeroDivisionError("odd\nthing"),
            1,
            "egm: unexpected ZeroDivisionError: odd thing; set EGM_DEBUG=1 for the traceback and report it\n",
            id="a bug of ours",
        ),
    ],
)
def test_errors_become_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    monkeypatch.delenv("EGM_DEBUG", raising=False)
    monkeypatch.setattr(egm_edge.cli, "_abandon_stdout", lambda: None)  # keep pytest's own stdout
    fake_verb(monkeypatch, raises(error))
    assert main(["fake"]) == code
    assert capfd.readouterr().err == line


def test_a_missing_extra_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_verb(monkeypatch, raises(ModuleNotFoundError("No module named 'onnx'", name="onnx")), extra="build")
    assert main(["fake"]) == 6
    assert "'onnx'" in (line := capfd.readouterr().err)
    assert "pip install 'egm-edge[build]'" in line


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGM_DEBUG", "1")
    fake_verb(monkeypatch, raises(BundleError("a", "b", "c")))
    with pytest.raises(BundleError):
        main(["fake"])


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    code = f"{sys.executable} -m egm_edge.cli doctor | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 141
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_closed_stdout_is_no_traceback() -> None:
    command = ["sh", "-c", 'exec "$0" -m egm_edge.cli --help >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_stdout_is_one_line(egm: Egm) -> None:
    with open("/dev/full", "w") as full:
        done = egm("doctor", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "egm: output: No space left on device\n"


WAITING_VERB = """
import sys, time
import egm_edge.cli as cli

def wait(argv):
    print("ready", flush=True)
    time.sleep(60)

cli.wait = wait
cli.VERBS["wait"] = cli.Verb("egm_edge.cli:wait", "")
sys.exit(cli.main(["wait"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_it_without_a_traceback(number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", WAITING_VERB]
    process = popen_with_default_signals(command)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
