"""Where Edge-LLM's tools are and how they are run: their own Python environment, a process group of their own, checked exits.

The tools' pins clash with this project's, so they never share an interpreter. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from egm_edge.errors import BuildError
from egm_edge.releases import EDGE_LLM, describe_release

ENVIRONMENT_VARIABLE = "EGM_EDGELLM_VENV"
PACKAGES = ("tensorrt-edgellm", "nvidia-modelopt", "torch", "transformers", "onnx", "onnxscript", "safetensors")
CLONE = Path(__file__).resolve().parents[2]
SUPERVISOR = Path(__file__).with_name("supervisor.py")
_HINT = f"run `egm setup edgellm`, or point {ENVIRONMENT_VARIABLE} at such an environment"
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|os error 28")
_TAIL_LINES = 40
_GRACE_S = 5.0

OnLine = Callable[[str], None]


def default_root() -> Path:
    """Where `egm setup edgellm` puts the environment: `.venv-edgellm` of a clone, else the user's data folder."""
    if (CLONE / "pyproject.toml").is_file():
        return CLONE / ".venv-edgellm"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "egm-edge" / "edgellm"


@dataclass(frozen=True)
class EdgeLlmEnvironment:
    """A Python environment that holds tensorrt-edgellm."""

    root: Path

    @classmethod
    def find(cls) -> EdgeLlmEnvironment:
        """$EGM_EDGELLM_VENV; else the environment that this runs in, as on a device; else where `egm setup` puts it.

        Raises:
            BuildError: there is none, or it holds another version.
        """
        chosen = os.environ.get(ENVIRONMENT_VARIABLE)
        if not chosen and importlib.util.find_spec("tensorrt_edgellm") is not None:
            chosen = sys.prefix
        found = cls(Path(chosen) if chosen else default_root())
        if not found.python.is_file():
            raise BuildError("an environment with tensorrt-edgellm", f"nothing at {found.root}", _HINT)
        version = found.versions.get("tensorrt-edgellm")
        if version != EDGE_LLM:
            raise BuildError(f"tensorrt-edgellm {EDGE_LLM} in {found.root}", describe_release(version), _HINT)
        return found

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    def tool(self, name: str) -> Path:
        """A command of the environment.

        Raises:
            BuildError: it is not there.
        """
        path = self.root / "bin" / name
        if not path.is_file():
            raise BuildError(f"{name} in {self.root}", "no such command", _HINT)
        return path

    @cached_property
    def versions(self) -> dict[str, str]:
        """Package name -> version of what takes part in a build; absent packages are left out."""
        code = (
            "import importlib.metadata as m, json, sys\nfound = {}\nfor name in sys.argv[1:]:\n"
            "    try: found[name] = m.version(name)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(found))"
        )
        try:
            done = subprocess.run(
                [str(self.python), "-P", "-c", code, *PACKAGES], capture_output=True, errors="replace", timeout=120, check=True
            )
            return {str(name): str(version) for name, version in json.loads(done.stdout).items()}
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise BuildError(f"a working environment at {self.root}", str(error)[:200], _HINT) from None


def run_tool(
    argv: Sequence[str | Path],
    *,
    what: str,
    log: Path,
    on_line: OnLine = lambda line: None,
) -> None:
    """Run a tool to its end, its output in `log`; no process of it outlives this call.

    Args:
        what: the step in words, for messages ("the export").
        on_line: told about every line.

    It ends with this process, even one that is killed.

    Raises:
        BuildError: it could not start, or ended with anything but 0; the message quotes its last error line.
    """
    # Without the offline switch a missing file makes the tools ask the hub for a model of that name.
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), *(str(part) for part in argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,  # its end tells the supervisor of ours
            text=True,
            errors="replace",
            env=variables,
            cwd=log.parent,  # the wheel brings a top-level package `experimental`; nothing here may shadow it
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"to start {argv[0]}", error.strerror or str(error), _HINT) from None
    try:
        assert process.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                tail.append(line.rstrip())
                on_line(line.rstrip())
        code = process.wait()
    finally:
        _end(process)
        if process.stdin is not None:
            process.stdin.close()
    if code != 0:
        raise BuildError(f"{what} to end with exit code 0", _reason(code, tail), f"see {log}" if log.exists() else "report it")


def _end(process: subprocess.Popen[str]) -> None:
    """Terminate the whole group, whatever state it is in."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None and sign is signal.SIGTERM:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _reason(code: int, tail: Sequence[str]) -> str:
    text = "\n".join(tail)
    if _NO_SPACE.search(text):
        return "no space left on device"
    if code == -signal.SIGKILL:
        return "killed by the system (most likely out of memory)"
    errors = [line.strip() for line in tail if re.search(r"Error|error:|SystemExit|expected", line)]
    last = errors[-1] if errors else next((line.strip() for line in reversed(tail) if line.strip()), "no output")
    return f"exit code {code}: {last[:300]}"
