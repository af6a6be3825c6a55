"""Completion in a real shell."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from egm_edge.cli.completion import SCRIPTS

SETUP = 'egm() { echo "  --save OUT  --samples N  --json"; }\n'


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "wanted"), [(("egm", "gro"), ["ground"]), (("egm", "ground", "--sa"), ["--samples", "--save"])]
)
def test_bash_completes_verbs_and_options(words: tuple[str, ...], wanted: list[str]) -> None:
    script = SCRIPTS["bash"].replace("VERBS", "ground serve")
    ask = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _egm; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", SETUP + script + ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == wanted
