"""Quantized CPU bundles: close to full precision, refused by the gate when they are not, equal across memory modes' frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from build_engine.compilers.cpu import build_cpu
from build_engine.parity import build_gate
from build_engine.parity.report import STAGES
from build_engine.precisions import PRECISIONS
from egm_edge.backends.onnx_runtime.backend import OnnxBackend
from egm_edge.backends.onnx_runtime.embedding import EmbeddingTable
from egm_edge.backends.onnx_runtime.sessions import PREFILL, MemoryMode
from egm_edge.errors import BuildError, InputError
from egm_edge.grounder import Grounder

GREY = np.full((96, 96, 3), 128, np.uint8)


@pytest.fixture(scope="module", params=["tiny_qwen3_vl", "tiny_internvl3"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_the_gate_measures_and_records_the_cost_of_a_precision(
    checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision=precision)
    parity = bundle.manifest.parity
    assert (parity["status"], parity["first_divergence"]) == ("verified", "")
    assert parity["content_sha256"] == bundle.hash
    stages = {stage["name"]: stage for stage in parity["stages"]}
    assert list(stages) == list(STAGES)
    for name in ("vision embedding", "prefill logits"):
        assert 0.0 < stages[name]["worst"] < stages[name]["bound"]
    exact = parity["boxes"]["same_text"] == 1.0
    assert exact or precision != "fp32"


def test_the_gate_refuses_a_bundle_that_drifted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PRECISIONS["int4"]
    monkeypatch.setitem(PRECISIONS, "int4", replace(row, bounds=replace(row.bounds, kl_nats=1e-9)))  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=r"prefill logits.*--precision"):
        build_cpu(checkpoint, tmp_path / "bundle", precision="int4")
    assert not (tmp_path / "bundle").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_build_without_the_reference_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(build_gate.importlib.util, "find_spec", lambda name: None if name == package else object())
    parity = build_cpu(checkpoint, tmp_path / "bundle", precision="fp32").manifest.parity
    assert parity["status"] == "unverified"
    assert package in parity["why"] and "egm verify" in parity["verify_with"]


def test_low_memory_leaves_the_second_decoder_out_and_answers_alike(checkpoint: Path, tmp_path: Path) -> None:
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision="int8", gate=False)
    assert PREFILL in bundle.manifest.files
    logits = {}
    for mode in ("fast", "low"):
        with Grounder.from_opened(bundle, memory=mode, threads=1) as grounder:
            backend = grounder.backend
            assert isinstance(backend, OnnxBackend)
            assert (backend.sessions.prefill is backend.sessions.decoder) == (mode == "low")
            frame = grounder.frame(GREY, color="rgb")
            grounder.ground(frame, "x", max_new_tokens=1)
            assert frame.engine_frame is not None
            logits[mode] = backend.open_session(frame.engine_frame).extend(grounder.token_ids("the mug"))
    fast, low = logits["fast"], logits["low"]
    assert fast @ low / np.linalg.norm(fast) / np.linalg.norm(low) > 0.99


def test_auto_memory_falls_back_when_little_is_free(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision="int8", gate=False)
    for free, expected in ((64 << 20, MemoryMode.LOW), (64 << 30, MemoryMode.FAST), (None, MemoryMode.FAST)):
        monkeypatch.setattr("egm_edge.backends.onnx_runtime.sessions.available_bytes", lambda free=free: free)
        assert OnnxBackend(bundle).sessions.memory is expected


def test_an_unknown_memory_mode_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision="fp32", gate=False)
    with pytest.raises(InputError, match="auto, fast or low"):
        OnnxBackend(bundle, memory="tiny")


def test_more_threads_than_processors_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision="fp32", gate=False)
    for threads in (0, -1, 100_000):
        with pytest.raises(InputError, match="threads"):
            OnnxBackend(bundle, threads=threads)


def test_rescoring_makes_the_best_logits_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0, 0.2, (500, 64)).astype(np.float16)
    np.save(tmp_path / "embedding.npy", table)
    hidden = rng.normal(0, 2, 64).astype(np.float32)
    exact = table.astype(np.float32) @ hidden
    noisy = exact + rng.normal(0, 0.2, 500).astype(np.float32)
    EmbeddingTable(tmp_path / "embedding.npy", "float16").rescore(noisy, hidden, 64)
    assert noisy.argmax() == exact.argmax()
    best = np.argsort(exact)[-5:]
    np.testing.assert_allclose(noisy[best], exact[best], rtol=1e-4)


def test_rows_stay_right_while_their_pages_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    np.save(tmp_path / "embedding.npy", table)
    monkeypatch.setattr("egm_edge.backends.onnx_runtime.embedding.RESIDENT_ROWS", 3)
    embedding = EmbeddingTable(tmp_path / "embedding.npy", "float32")
    for start in range(0, 300, 2):
        np.testing.assert_array_equal(embedding.rows([start, start + 1]), table[start : start + 2])
