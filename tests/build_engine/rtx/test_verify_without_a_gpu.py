"""`egm verify` of an RTX bundle where no GPU is: its portable graphs are asked on the CPU, its engines never vouched for."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine import verify_cli
from build_engine.parity.stand_in import ENGINE, GRAPHS, section
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.assets import ASSETS_DIR, shipped_checkpoint
from egm_edge.backends.portable.backend import PortableBackend
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, BundleError, InputError
from tests.build_engine.parity.tampering import copy_of, edit_manifest, edit_weight, seal
from tests.support.portable_bundle import write_portable_bundle

WITHOUT_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx'))); from egm_edge.cli import main; "
SHIPPED = ASSETS_DIR / "egm-nano-cpu"
Told = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EGM-Nano's graphs with the golden replies of its shipped bundle, which are the reference's in any precision."""
    out_dir, target = tmp_path_factory.mktemp("nano") / "bundle", target_for("rtx")
    request = BuildRequest(checkpoint=shipped_checkpoint(), out_dir=out_dir, target=target, precision="fp16", gate=False)
    root = write_portable_bundle(request).root
    shutil.copytree(SHIPPED / "golden", root / "golden")
    golden: dict[str, Any] = {f"golden/{path.name}": {} for path in (root / "golden").iterdir()}
    edit_manifest(root, lambda values: values.update(files=values["files"] | golden))
    return root


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    """Exit code and report of `egm verify` on a machine without a GPU."""
    monkeypatch.setattr(verify_cli, "has_nvidia_gpu", lambda: False)

    def run(bundle: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = verify_cli.main([str(bundle), "--json", *arguments])
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return code, report

    return run


def test_without_torch_the_graphs_answer_and_the_engines_stay_unverified(nano: Path, tmp_path: Path) -> None:
    root = copy_of(nano, tmp_path / "bundle")
    manifest = (root / "bundle.json").read_bytes()
    command = [sys.executable, "-c", WITHOUT_TORCH + f"sys.exit(main(['verify', {str(root)!r}, '--graphs']))"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("portable graphs on the CPU: golden replies: verified")
    assert "unverified on target" in last and "not the engines" in last
    attestations = [json.loads(path.read_text()) for path in (root / "attestations").iterdir()]
    assert [(each["status"], each["graphs"]["status"], each["machine"]["device"]) for each in attestations] == [
        ("unverified", "verified", "cpu")
    ]
    assert (root / "bundle.json").read_bytes() == manifest


def _half_a_layer(weight: np.ndarray) -> np.ndarray:
    return weight * np.float16(0.5)


def _weight(graph: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return partial(edit_weight, graph=graph, name=name, change=change)


def _reply(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Alter one golden reply, sealed as if it had been the reference's."""
    path = root / "golden/replies.json"
    values = json.loads(path.read_text())
    change(next(row for row in values["replies"] if row["box"]))
    path.write_text(json.dumps(values))
    seal(root)


def _moved_box(row: dict[str, Any]) -> None:
    row["box"][0] += 5


def _another_token(row: dict[str, Any]) -> None:
    row["token_ids"][len(row["token_ids"]) // 2] += 1


def _another_word(row: dict[str, Any]) -> None:
    row["text"] = "x" + row["text"]


@pytest.mark.parametrize(
    ("damage", "stage"),
    [
        pytest.param(_weight("decoder", "text.layers.1.mlp.up_proj", _half_a_layer), "prefill logits", id="decoder"),
        pytest.param(_weight("vision", "vision.patch_embed", np.zeros_like), "prefill logits", id="vision"),
        pytest.param(_weight("head", "head", lambda weight: -weight), "prefill logits", id="head"),
        pytest.param(partial(_reply, change=_moved_box), "golden replies", id="a golden box"),
        pytest.param(partial(_reply, change=_another_token), "golden replies", id="a golden token"),
        pytest.param(partial(_reply, change=_another_word), "golden replies", id="a golden text"),
    ],
)
def test_what_is_wrong_is_found_and_its_stage_named(
    damage: Callable[[Path], None], stage: str, nano: Path, tmp_path: Path, told: Told
) -> None:
    root = copy_of(nano, tmp_path / "bundle")
    damage(root)
    code, report = told(root, "--no-store")
    assert (code, report["status"], report["first_divergence"]) == (1, "failed", stage), report


def test_a_mistake_in_decode_steps_is_called_so(nano: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = PortableBackend._positions
    monkeypatch.setattr(
        PortableBackend, "_positions", lambda self, past, count: positions(self, past, count) - 8 * (count == 1)
    )
    code, report = told(nano, "--no-store")
    assert (code, report["first_divergence"]) == (1, "decode logits")


def test_a_copy_without_the_graphs_is_the_same_bundle(nano: Path, tmp_path: Path, told: Told) -> None:
    root = copy_of(nano, tmp_path / "bundle")
    shutil.rmtree(root / "portable")
    assert Bundle.open(root).hash == Bundle.open(nano).hash
    with pytest.raises(BackendError, match=r"portable graphs.*a copy without portable/.*where the GPU is"):
        told(root)
    with pytest.raises(BackendError, match=r"portable graphs"):
        told(root, "--reference", "egm-nano")


def test_graphs_that_are_there_are_checked(nano: Path, tmp_path: Path, told: Told) -> None:
    root = copy_of(nano, tmp_path / "bundle")
    data = bytearray((root / "portable/decoder.onnx.data").read_bytes())
    data[1000] ^= 1
    (root / "portable/decoder.onnx.data").write_bytes(data)
    with pytest.raises(BundleError, match=r"portable/decoder\.onnx\.data.*altered"):
        told(root)
    (root / "portable/decoder.onnx.data").unlink()
    with pytest.raises(BackendError, match=r"a copy without portable/decoder\.onnx\.data"):
        told(root)


def test_where_a_gpu_is_the_engines_are_asked(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in for them unasked there."""
    monkeypatch.setattr(verify_cli, "has_nvidia_gpu", lambda: True)
    with pytest.raises(BackendError, match=r"--graphs"):
        verify_cli.main([str(nano), "--no-store"])
    assert verify_cli.main([str(nano), "--no-store", "--graphs", "--brief"]) == 0


def test_only_an_rtx_bundle_has_such_graphs() -> None:
    with pytest.raises(InputError, match="an rtx bundle with --graphs"):
        verify_cli.main([str(SHIPPED), "--graphs", "--no-store"])


def test_the_whole_gate_over_the_graphs_never_vouches_for_the_engines(
    nano: Path, tmp_path: Path, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("transformers")
    root = copy_of(nano, tmp_path / "bundle")
    code, report = told(root, "--reference", "egm-nano", "--scenes", "1", "--max-new-tokens", "24")
    assert (code, report["status"], report["graphs"]["status"]) == (0, "unverified", "verified"), report
    assert Bundle.open(root).manifest.parity == report
    edit_weight(root, "decoder", "text.layers.1.mlp.up_proj", _half_a_layer)
    code, report = told(root, "--reference", "egm-nano", "--scenes", "1", "--max-new-tokens", "24")
    assert (code, report["status"], report["first_divergence"]) == (1, "failed", "prefill logits")
    with caplog.at_level(logging.WARNING), pytest.raises(BackendError):  # opened as ever, the engines not being there
        from egm_edge.backends import open_backend

        open_backend(Bundle.open(root))
    assert any("FAILED its parity check at prefill logits" in message for message in caplog.messages)


@pytest.mark.parametrize("part", [GRAPHS, ENGINE])
def test_a_stand_in_adds_to_what_the_device_showed_and_never_replaces_it(part: str) -> None:
    passed, failed = {"status": "verified"}, {"status": "failed", "first_divergence": "text"}
    of_device = {"status": "verified", "stages": [], "machine": {"device": "cuda:0 (sm89)"}}
    assert section(part, passed) | {"why": ""} == {"status": "unverified", "why": "", part: passed}
    assert section(part, passed, of_device) == of_device | {part: passed}
    assert section(part, failed, of_device)["status"] == "failed"
    assert section(part, passed, section(part, failed))["status"] == "unverified"


@pytest.mark.parametrize("precision", ["fp16", "int4", "fp8", "bf16"])
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_build_where_no_gpu_is_verifies_there(
    precision: str, tmp_path: Path, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """As typed: real engines, the gate over the graphs, golden replies of its own."""
    from build_engine.cli import main

    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("transformers")
    assert main(["egm-nano", "--target", "rtx", "--precision", precision, "-o", str(tmp_path / "bundle")]) == 0
    assert "unverified on target" in (line := capsys.readouterr().out) and "its graphs on the CPU: verified" in line
    code, report = told(tmp_path / "bundle")
    assert (code, report["graphs"]["status"]) == (0, "verified"), report
