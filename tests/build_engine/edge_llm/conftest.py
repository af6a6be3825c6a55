"""A stand-in environment for the Edge-LLM tests."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

FAKE_PYTHON = """#!{python}
import json, os, sys
arguments = " ".join(sys.argv[1:])
if "importlib.metadata" in arguments:
    print(json.dumps({{"tensorrt-edgellm": os.environ.get("FAKE_VERSION", "0.11.0")}}))
elif "runtime.load" in arguments:
    if os.environ.get("FAKE_UNSUPPORTED"):
        sys.exit("NativeSelectionError: no payload for sm90")
    print("egm-runtime ready")
else:
    sys.exit("unexpected call: " + arguments)
"""


@pytest.fixture
def fake_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of stand-ins at $EGM_EDGELLM_VENV; add tools with `write_tool`."""
    root = tmp_path / "venv-edgellm"
    (root / "bin").mkdir(parents=True)
    write_tool(root, "python", FAKE_PYTHON.format(python=sys.executable))
    monkeypatch.setenv("EGM_EDGELLM_VENV", str(root))
    return root


def write_tool(root: Path, name: str, text: str) -> None:
    path = root / "bin" / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
