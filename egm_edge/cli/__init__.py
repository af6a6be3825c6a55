"""The `egm` command: one table of verbs, each a function that is imported only when it is asked for.

A verb takes its argument list and returns an exit code. Every EgmError becomes one line on stderr and its own exit code;
`EGM_DEBUG=1` shows the traceback instead. Exit codes: 0 done, 1 failed, 2 bad input or usage, 3 checkpoint, 4 bundle,
5 build, 6 runtime, 130 Ctrl-C, 141 the reader of our output went away, 143 terminated.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import NamedTuple, NoReturn

from egm_edge import __version__
from egm_edge.errors import BackendError, EgmError, InputError, message_of
from egm_edge.own_packages import import_own

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143


class Verb(NamedTuple):
    """Where a verb is, what it says of itself, and the pip extra that brings its imports."""

    target: str
    summary: str
    extra: str = ""


VERBS: dict[str, Verb] = {
    "ground": Verb("egm_edge.cli.ground:main", "find what sentences describe in an image"),
    "track": Verb("egm_edge.cli.track:main", "carry boxes through a video, a folder of frames or a camera"),
    "build": Verb("build_engine.cli:main", "turn a checkpoint into a bundle for one target", extra="build"),
    "recommend": Verb("build_engine.recommend_cli:main", "what to build for this machine or another, and how fast it is"),
    "setup": Verb("build_engine.setup_cli:main", "make the environment that a target's tools need"),
    "targets": Verb("build_engine.targets_cli:main", "what bundles can be built for"),
    "verify": Verb("build_engine.verify_cli:main", "compare a bundle with its checkpoint, stage by stage", extra="build"),
    "serve": Verb("egm_edge.cli.serve:main", "answer OpenAI clients with a bundle's boxes, and show a page", extra="serve"),
    "inspect": Verb("egm_edge.cli.inspect:main", "show and check a bundle, or show a checkpoint"),
    "measure": Verb("egm_edge.cli.measure:main", "latency of a bundle on this machine, stage by stage"),
    "evaluate": Verb("egm_edge.cli.evaluate:main", "accuracy of a bundle on grounding data, resumable"),
    "calibrate": Verb("egm_edge.cli.calibrate:main", "fit how sure a bundle may be of its boxes, on data"),
    "data": Verb("training.data_cli:main", "check, convert, flip and filter grounding data", extra="train"),
    "train": Verb("training.cli:main", "train a checkpoint", extra="train"),
    "completion": Verb("egm_edge.cli.completion:main", "a script that completes verbs and options in a shell"),
    "doctor": Verb("egm_edge.cli.doctor:main", "what this machine has, what is missing and the command that mends it"),
}


def usage() -> str:
    """The text of `egm --help`."""
    rows = "\n".join(f"  {name:<10} {verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: egm VERB ...\n\n"
        "Language-guided boxes on a robot's own computer.\n\n"
        f"{rows}\n\n"
        "egm VERB --help tells more of one verb; egm --version prints the version.\n"
        'example: egm ground photo.png "the red mug left of the kettle" --save out.png\n'
    )


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows other scripts as escapes
            stream.reconfigure(errors="backslashreplace")
    for variable, quiet in {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8"}.items():
        os.environ.setdefault(variable, quiet)  # what went wrong is told once, by us
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except EgmError as error:
        return _fail(str(error), error, error.exit_code)
    except KeyboardInterrupt as error:
        return _fail("interrupted", error, EXIT_INTERRUPTED)
    except BrokenPipeError:
        _abandon_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # a path as it was typed, whoever looked there first
            told = InputError("a path", f"{str(error.filename)[:80]}: {error.strerror}", "check what was typed")
            return _fail(str(told), error, told.exit_code)
        _abandon_stdout()
        return _fail(_describe(error), error, 1)
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        (sys.stdout if arguments else sys.stderr).write(usage())
        return 0 if arguments else 2
    name = arguments[0]
    if name in ("--version", "version"):
        print(f"egm-edge {__version__}")
        return 0
    if name not in VERBS:
        sys.stderr.write(f"egm: expected a verb ({', '.join(VERBS)}); found {name!r}; see egm --help\n")
        return 2
    return run_verb(name, VERBS[name], arguments[1:])


def run_verb(name: str, verb: Verb, arguments: list[str]) -> int:
    """Import a verb and run it.

    Raises:
        BackendError: what it imports comes with an extra that is not installed, or its package is another one's.
    """
    module, _, function = verb.target.partition(":")
    try:
        return int(getattr(import_own(module), function)(arguments))
    except ModuleNotFoundError as error:
        if not verb.extra or error.name is None:
            raise
        needed = f"the Python package {error.name!r} for `egm {name}`"
        raise BackendError(needed, "not installed", f"pip install 'egm-edge[{verb.extra}]'") from error


def _describe(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {message_of(error)}; set EGM_DEBUG=1 for the traceback and report it"


def _fail(line: str, error: BaseException, code: int) -> int:
    if os.environ.get("EGM_DEBUG") == "1":
        raise error
    sys.stderr.write(f"egm: {line}\n")
    return code


def _terminate(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _abandon_stdout() -> None:
    """Point stdout away from a reader that is gone or a disk that is full, so that the interpreter's own flush is quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
