"""Environments that hold tensorrt-edgellm: for a host that quantizes and exports, and for the device that builds and answers.

The host's is apart from everything else and pinned (`constraints.txt`). The device's holds egm-edge too and sees the system's
packages: TensorRT's Python bindings come with JetPack, for the system's own Python. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_engine.edge_llm.environment import CLONE, EdgeLlmEnvironment
from egm_edge import __version__
from egm_edge.errors import BuildError
from egm_edge.files import check_place, make_folder
from egm_edge.releases import EDGE_LLM

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
SYSTEM_PYTHON = Path("/usr/bin/python3")
L4T_RELEASE = Path("/etc/nv_tegra_release")
LEAST_L4T = (38, 2)  # of JetPack 7.0; JetPack 6 is R36
_VERSIONS = ((3, 10), (3, 12))  # that tensorrt-edgellm has wheels for
_REQUIRED = ("tensorrt-edgellm", "nvidia-modelopt", "torch", "transformers", "requests", "datasets")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an environment is made.

    Attributes:
        root: its directory. python: the interpreter that makes it. see_system: whether it sees the system's packages.
        installs: pip's arguments, one call each. removes: packages that may not stay.
    """

    root: Path
    python: str
    see_system: bool
    installs: tuple[tuple[str, ...], ...]
    removes: tuple[str, ...] = ()

    def commands(self) -> list[list[str]]:
        """What is run, in order."""
        made = [self.python, "-m", "venv", *(["--system-site-packages"] if self.see_system else []), str(self.root)]
        pip = [str(self.root / "bin/python"), "-m", "pip"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        found = [made, *([*pip, "install", *quiet, *arguments] for arguments in self.installs)]
        return found + [[*pip, "uninstall", "--quiet", "--yes", name] for name in self.removes]


def host_recipe(root: Path, python: str | None = None) -> Recipe:
    """Exporter and ModelOpt.

    Raises:
        BuildError: no Python that they have wheels for.
    """
    # torch first and alone: resolved together with the rest, a newer one with its GPU packages may win. The export extra
    # alone cannot export a vision tower: it imports the last three and names none of them. A torchvision made for CUDA breaks
    # transformers beside a CPU torch.
    steps = (("torch",), (f"tensorrt-edgellm[export]=={EDGE_LLM}",), ("nvidia-modelopt", "requests", "datasets"))
    pinned = tuple(("--constraint", str(CONSTRAINTS), *names) for names in steps)
    return Recipe(root, python or _python(), see_system=False, installs=pinned, removes=("torchvision",))


def device_recipe(root: Path, python: Path = SYSTEM_PYTHON) -> Recipe:
    """Runtime, engine builder and egm-edge.

    Raises:
        BuildError: a JetPack or a Python that NVIDIA publishes no wheel for, or no TensorRT bindings in this Python.
    """
    _require_jetpack()
    seen = _run([str(python), "-c", "import sys; print(*sys.version_info[:2]); import tensorrt; print(tensorrt.__version__)"])
    version = tuple(int(part) for part in (seen[0].split() if seen else ()))
    if not _VERSIONS[0] <= version <= _VERSIONS[1]:
        found = ".".join(map(str, version)) or "no Python"
        raise BuildError(f"Python 3.10 to 3.12 at {python}", found, "tensorrt-edgellm has wheels for no other")
    if len(seen) < 2:
        hint = "sudo apt install nvidia-jetpack python3-libnvinfer"
        raise BuildError(f"TensorRT's Python bindings in {python}", "none", hint)
    here = f"{CLONE}[build]" if (CLONE / "pyproject.toml").is_file() else f"egm-edge[build]=={__version__}"
    return Recipe(root, str(python), see_system=True, installs=((f"tensorrt-edgellm=={EDGE_LLM}", here),))


def create(recipe: Recipe, say: Callable[[str], None]) -> bool:
    """Make the environment; False where it is there already. What a broken attempt left is begun anew.

    Raises:
        BuildError: a command failed; its last line is told.
    """
    with check_place(make_folder(recipe.root.parent) / f"{recipe.root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_complete(recipe):
            return False
        shutil.rmtree(recipe.root, ignore_errors=True)
        for command in recipe.commands():
            say(shlex.join(command))
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", check=False)
            if done.returncode:
                lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
                raise BuildError(f"{shlex.join(command)[:200]} to succeed", lines[-1][:300], "mend it and run the same again")
        return True


def is_complete(recipe: Recipe) -> bool:
    """Whether the environment is there, where it was made, with every package of its recipe at its version."""
    tool = recipe.root / "bin" / "tensorrt-edgellm-build"
    try:  # an environment does not survive being moved
        at_home = tool.read_text("utf-8", "replace").split("\n", 1)[0] == f"#!{recipe.root.resolve()}/bin/python"
    except OSError:
        return False
    if recipe.see_system:
        return at_home and EdgeLlmEnvironment(recipe.root).versions.get("tensorrt-edgellm") == EDGE_LLM
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text("utf-8").split() if "==" in line)
    code = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    told = _run([str(recipe.root / "bin/python"), "-P", "-c", code])
    found = {_plain(name): version.partition("+")[0] for name, version in json.loads(told[0] if told else "{}").items()}
    wanted = {_plain(name): version for name, version in pins.items()}
    return at_home and all(name in found for name in _REQUIRED) and all(found.get(n, v) == v for n, v in wanted.items())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _python() -> str:
    chosen = os.environ.get("EGM_EDGELLM_PYTHON")
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    for name in (chosen,) if chosen else (sys.executable, "python3.11", "/usr/bin/python3.11", "python3.12", "python3.10"):
        found = _run([name, "-c", code])
        if found and _VERSIONS[0] <= tuple(int(part) for part in found[0].split()) <= _VERSIONS[1]:
            return name
    hint = "install python3.11 and python3.11-venv, or set EGM_EDGELLM_PYTHON"
    raise BuildError("Python 3.10 to 3.12 with venv", chosen or "none", hint)


def _require_jetpack() -> None:
    try:
        text = L4T_RELEASE.read_text("utf-8", "replace")
    except OSError:
        return  # no Jetson: NVIDIA's own check decides when the runtime is loaded
    match = re.search(r"R(\d+)\s*\(release\).*?REVISION:\s*(\d+)", text)
    if match and (int(match[1]), int(match[2])) < LEAST_L4T:
        hint = "flash JetPack 7.2; on JetPack 6 build with --target cpu, or build Edge-LLM from source"
        raise BuildError("JetPack 7 (L4T R38.2 or newer)", f"L4T R{match[1]}.{match[2]}", hint)


def _run(command: Sequence[str]) -> list[str]:
    """Lines that a command prints before it ends or fails."""
    try:
        done = subprocess.run(command, capture_output=True, errors="replace", timeout=120, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
