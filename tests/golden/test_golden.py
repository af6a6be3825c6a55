"""Golden replies: checked without torch, on any machine, by any runtime; what is found never changes the bundle's name."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from build_engine.parity.contradictions import contradictions
from egm_edge.assets import ASSETS_DIR
from egm_edge.backends.base import RuntimeFacts
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle
from egm_edge.errors import BundleError
from egm_edge.golden.attestation import Machine, attested
from egm_edge.golden.check import check_golden
from egm_edge.golden.replies import GoldenSet, read_golden
from egm_edge.grounder import Grounder

WITHOUT_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx'))); from egm_edge.cli import main; "


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    root = shutil.copytree(
        ASSETS_DIR / "egm-nano-cpu", tmp_path / "bundle", ignore=shutil.ignore_patterns("attestations")
    )
    return Bundle.open(root)


class _TextRuntime:
    """Answers as the reference did, every box moved by thousandths of the picture."""

    def __init__(self, golden: GoldenSet, shift_norm1000: float) -> None:
        self.shift, self.known = shift_norm1000, {(r.picture, r.expression): r for r in golden.replies}

    def frame(self, picture: bytes) -> bytes:
        return picture

    def ground(self, picture: bytes, expression: str, **_: Any) -> Any:
        reply = self.known[picture, expression]
        width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
        x, y = self.shift * width / 1000, self.shift * height / 1000
        assert reply.box is not None
        x1, y1, x2, y2 = reply.box
        answer = type("Answer", (), {})()
        answer.text, answer.box = reply.text, Box(x1 + x, y1 + y, x2 + x, y2 + y)
        return answer


@pytest.mark.slow
def test_verify_needs_neither_torch_nor_the_checkpoint(bundle: Bundle) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH + f"sys.exit(main(['verify', {str(bundle.root)!r}, '--json']))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "verified" and report["kl_nats"] <= report["kl_bound"]
    assert Bundle.open(bundle.root).hash == bundle.hash
    assert list((bundle.root / "attestations").iterdir())


def test_a_torch_bundle_without_torch_says_what_to_install(bundle: Bundle) -> None:
    (bundle.root / "bundle.json").write_text(replace(bundle.manifest, target="torch").to_json())
    command = [sys.executable, "-c", WITHOUT_TORCH + f"sys.exit(main(['verify', {str(bundle.root)!r}]))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 6
    assert "expected torch" in (line := done.stderr.splitlines()[-1]) and "pip install 'egm-edge[gpu]'" in line


def test_golden_replies_that_contradict_themselves_are_told(bundle: Bundle) -> None:
    golden = read_golden(bundle)
    assert contradictions(bundle, golden) == []
    number, reply = next((i, reply) for i, reply in enumerate(golden.replies) if reply.box)
    assert reply.box is not None
    middle = len(reply.token_ids) // 2
    swapped = (*reply.token_ids[:middle], reply.token_ids[middle] + 1, *reply.token_ids[middle + 1 :])
    altered = {
        "logits choose other": replace(reply, token_ids=swapped),
        "text is not": replace(reply, text=reply.text + "!"),
        "is not that of its text": replace(reply, box=(reply.box[0] + 2, *reply.box[1:])),
        "its box None": replace(reply, box=None),
    }
    for words, changed in altered.items():
        replies = (*golden.replies[:number], changed, *golden.replies[number + 1 :])
        (problem,) = contradictions(bundle, replace(golden, replies=replies))
        assert words in problem and problem.startswith(f"golden reply {number} ")


@pytest.mark.parametrize(("shift", "passes"), [(0.0, True), (12.0, False), (-5.0, False)])
def test_a_shifted_server_fails_and_is_told_by_how_much(bundle: Bundle, shift: float, passes: bool) -> None:
    golden = read_golden(bundle)
    report = check_golden(_TextRuntime(golden, shift), RuntimeFacts("a server", "http://x"), golden)
    assert report.passed == passes
    assert report.shift_norm1000 == pytest.approx((shift,) * 4, abs=0.05)
    assert passes or f"{shift:+.1f}" in " ".join(report.lines())


def test_another_machine_is_checked_once_and_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(options["brief"])
        return replace(check_golden(*args, **options), problems=("another box",))

    monkeypatch.setattr("egm_edge.golden.attestation.check_golden", counted)
    monkeypatch.setattr("egm_edge.backends.onnx_runtime.backend.instruction_set", lambda: "another")
    for _ in range(2):
        with caplog.at_level(logging.WARNING), Grounder.from_opened(bundle, threads=1) as grounder:
            found = attested(bundle, Machine.of(grounder.facts))
    assert asked == [True]
    assert found is not None and found["status"] == "failed"
    assert sum("answers otherwise" in message for message in caplog.messages) == 2


def test_damaged_golden_replies_are_told(bundle: Bundle) -> None:
    (bundle.root / "golden/replies.json").write_text("[" * 5000)
    with pytest.raises(BundleError, match="golden replies"):
        read_golden(bundle)
