"""The process that builds one engine: what it prints decides nothing but the words of an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from build_engine.compilers import rtx_worker, tensorrt_rtx
from build_engine.compilers.tensorrt_rtx import ENGINES, EngineJob
from egm_edge.errors import BuildError

NOT_UTF8 = r"sys.stdout.buffer.write(b'egm-refused caf\xe9\n')"


def test_output_that_is_not_utf8_ends_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = EngineJob(next(iter(ENGINES)), [])
    (tmp_path / "engines").mkdir()
    writes = f"open({ENGINES[job.graph]!r}, 'w').write('engine')"
    commands = iter([sys.executable, "-c", f"import sys; {NOT_UTF8}; {more}"] for more in (writes, "sys.exit(1)"))
    monkeypatch.setattr(rtx_worker, "command", lambda jobs: next(commands))
    tensorrt_rtx._build_once(tmp_path, ["sm86"], job)
    assert (tmp_path / ENGINES[job.graph]).read_text() == "engine"
    with pytest.raises(BuildError, match="found caf\ufffd;"):
        tensorrt_rtx._build_once(tmp_path, ["sm86"], job)
