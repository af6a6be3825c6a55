"""Bundles for GPUs, built without one: portable graphs equal to transformers, real engines, equal bytes when repeated,
floats and INT4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from build_engine.compilers import portable
from build_engine.compilers.tensorrt_rtx import compile_rtx
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.assets import shipped_checkpoint
from egm_edge.backends.portable.backend import PortableBackend
from egm_edge.backends.portable.ort_runner import KV_TYPES, OrtRunner
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.grounder import Grounder
from egm_edge.loaded_model import read_tokenizer
from tests.support.large_checkpoints import write_qwen3_vl_dims
from tests.support.portable_bundle import write_portable_bundle


def _request(checkpoint: Path, out_dir: Path, target: str, precision: str = "fp16", **options: object) -> BuildRequest:
    return BuildRequest(
        checkpoint=checkpoint,
        out_dir=out_dir,
        target=target_for(target),
        precision=precision,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_portable_graphs_equal_transformers_on_the_cpu(
    family: str, precision: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("transformers")
    bundle = write_portable_bundle(_request(request.getfixturevalue(family), tmp_path / "bundle", "rtx", precision))
    parity = bundle.manifest.parity
    assert ("arithmetic" in parity["graphs"]) == (precision == "bf16")
    assert parity["status"] == "unverified" and "unverified on target" in parity["why"]
    assert parity["graphs"]["status"] == "verified"
    assert {s["name"]: s["passed"] for s in parity["graphs"]["stages"]}["prefill logits"] is True


def test_the_portable_backend_forgets_and_goes_on(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    """Speculation rewinds the cache at every wrong draft; a displaced frame comes back with the same answer."""

    bundle = write_portable_bundle(_request(tiny_qwen3_vl, tmp_path / "bundle", "rtx", gate=False))
    backend = PortableBackend(bundle, OrtRunner(bundle, threads=1))
    grounder = Grounder(backend, bundle, read_tokenizer(bundle))
    first, second = (
        grounder.frame(np.random.default_rng(seed).integers(0, 256, (70, 90, 3), np.uint8), color="rgb")
        for seed in (1, 2)
    )
    options = {"max_new_tokens": 24, "force_syntax": False}
    fast = grounder.ground(first, "the mug the mug", **options).text  # type: ignore[arg-type]
    grounder.ground(second, "the mug", **options)  # type: ignore[arg-type]
    grounder.speculate = False
    assert grounder.ground(first, "the mug the mug", **options).text == fast  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_graphs_that_differ_from_the_checkpoint_are_refused(
    precision: str, tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    write = portable.write_portable_decoder
    monkeypatch.setattr(
        portable, "write_portable_decoder", lambda *args, deepstack: write(*args, deepstack=deepstack - 1)
    )
    with pytest.raises(BuildError, match="deep-stack"):
        write_portable_bundle(_request(tiny_qwen3_vl, tmp_path / "bundle", "rtx", precision))
    assert not list(tmp_path.iterdir())


def test_a_bfloat16_cache_is_bound_and_grows() -> None:
    """The cache's type has no NumPy name. The products of such a graph run on no CPU, its cache does."""
    past = ort.OrtValue.ortvalue_from_shape_and_type([8, 2, 4], KV_TYPES["tensor(bfloat16)"], "cpu", 0)
    grown = ort.OrtValue.ortvalue_from_shape_and_type([8, 2, 4], KV_TYPES["tensor(bfloat16)"], "cpu", 0)
    session = ort.InferenceSession(_cache_graph().SerializeToString())
    assert {v.name: v.type for v in session.get_inputs()}["past"] in KV_TYPES
    for step in range(3):
        binding = session.io_binding()
        binding.bind_cpu_input("fed", np.full((2, 2, 4), step + 1.5, np.float32))
        binding.bind_output("seen", "cpu")
        kind = KV_TYPES["tensor(bfloat16)"]
        binding.bind_input("past", "cpu", 0, kind, [2 * step, 2, 4], past.data_ptr())
        binding.bind_output("present", "cpu", 0, kind, [2 * step + 2, 2, 4], grown.data_ptr())
        session.run_with_iobinding(binding)
        past, grown = grown, past
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy()[:, 0, 0], [1.5, 1.5, 2.5, 2.5, 3.5, 3.5])


def _cache_graph() -> onnx.ModelProto:
    float32, bfloat16 = onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [
        node("Cast", ["fed"], ["narrow"], to=bfloat16),
        node("Concat", ["past", "narrow"], ["present"], axis=0),
        node("Cast", ["present"], ["seen"], to=float32),
    ]
    inputs = [value("fed", float32, ["n", 2, 4]), value("past", bfloat16, ["p", 2, 4])]
    outputs = [value("seen", float32, ["t", 2, 4]), value("present", bfloat16, ["t", 2, 4])]
    graph = onnx.helper.make_graph(nodes, "cache", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_too_many_pixels_for_a_profile_name_the_nearest_budget(tmp_path: Path) -> None:
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    checkpoint = write_tiny_qwen3_vl(tmp_path / "checkpoint", max_pixels=16_777_216)
    with pytest.raises(BuildError, match="--max-pixels 4194304"):
        write_portable_bundle(_request(checkpoint, tmp_path / "bundle", "rtx"))


def _require_tensorrt() -> str:
    found = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'egm-edge[rtx]'")
    return str(found.__version__)


@pytest.fixture(scope="module")
def nano_engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The shipped checkpoint built in each precision."""
    _require_tensorrt()
    root = tmp_path_factory.mktemp("nano")
    return {
        precision: compile_rtx(_request(shipped_checkpoint(), root / precision, "rtx", precision, gate=False))
        for precision in ("fp16", "int4")
    }


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_rtx_engines_of_the_shipped_checkpoint_are_real(precision: str, nano_engines: dict[str, Bundle]) -> None:
    bundle = nano_engines[precision]
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision) == ("rtx", precision)
    assert manifest.limits["sm"] == ["sm86", "sm89", "sm120"]
    assert manifest.versions["tensorrt-rtx"] == _require_tensorrt()
    for name in ("vision", "decoder", "head"):
        record = manifest.files[f"engines/{name}.engine"]
        data = (bundle.root / "engines" / f"{name}.engine").read_bytes()
        assert data.startswith(b"vtrt") and len(data) == record.bytes > 100_000
    assert {"portable/vision.onnx", "portable/decoder.onnx", "portable/head.onnx"} <= manifest.files.keys()
    assert not [name for name in manifest.files if name.startswith("graphs/") or "jobs" in name]
    assert Bundle.open(bundle.root).hash == bundle.hash == manifest.hash


@pytest.mark.parametrize("precision", ["int4", pytest.param("fp16", marks=pytest.mark.long)])
def test_rtx_engines_repeat_to_the_byte(precision: str, nano_engines: dict[str, Bundle], tmp_path: Path) -> None:
    """Under a name of another length, the graphs left out: they are no part of the bundle's name."""
    out = tmp_path / f"{precision}-under-another-name"
    again = compile_rtx(_request(shipped_checkpoint(), out, "rtx", precision, gate=False, keep_graphs=False))
    assert again.hash == nano_engines[precision].hash
    assert not [name for name in again.manifest.files if name.startswith("portable/")]


def test_an_int4_decoder_engine_is_the_smaller_one(nano_engines: dict[str, Bundle]) -> None:
    fp16, int4 = (nano_engines[precision].manifest.files for precision in ("fp16", "int4"))
    assert int4["engines/decoder.engine"].bytes < fp16["engines/decoder.engine"].bytes
    for same in ("engines/vision.engine", "engines/head.engine"):
        assert int4[same].sha256 == fp16[same].sha256


@pytest.mark.parametrize(
    ("family", "precision", "sms"),
    [
        ("tiny_qwen3_vl", "fp8", ["sm89", "sm120"]),
        ("tiny_internvl3", "bf16", ["sm86", "sm89", "sm120"]),
        pytest.param("tiny_qwen3_vl", "int4", ["sm86", "sm89", "sm120"], marks=pytest.mark.long),
        pytest.param("tiny_internvl3", "int4", ["sm86", "sm89", "sm120"], marks=pytest.mark.long),
        pytest.param("tiny_internvl3", "fp16", ["sm86", "sm89", "sm120"], marks=pytest.mark.long),
        pytest.param("tiny_qwen3_vl", "bf16", ["sm86", "sm89", "sm120"], marks=pytest.mark.long),
    ],
)
def test_rtx_engines_are_built_for_both_families(
    family: str, precision: str, sms: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _require_tensorrt()
    checkpoint = request.getfixturevalue(family)
    bundle = compile_rtx(_request(checkpoint, tmp_path / "bundle", "rtx", precision, gate=False))
    assert bundle.manifest.limits["sm"] == sms
    engines = [name for name in bundle.manifest.files if name.startswith("engines/")]
    assert sorted(engines) == ["engines/decoder.engine", "engines/head.engine", "engines/vision.engine"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_int4_decoder_engine_of_egm_4b_s_widths_holds_four_bits_a_weight(tmp_path: Path) -> None:
    _require_tensorrt()
    layers, hidden, ffn, queries, keys = 2, 2560, 9728, 4096, 1024
    checkpoint = write_qwen3_vl_dims(tmp_path / "4b", "egm-4b-widths", text_layers=layers, vision_layers=1)
    bundle = compile_rtx(_request(checkpoint, tmp_path / "bundle", "rtx", "int4", gate=False, max_pixels=1_048_576))
    weights = layers * hidden * (2 * queries + 2 * keys + 3 * ffn)
    assert 4.1 < bundle.manifest.files["engines/decoder.engine"].bytes * 8 / weights < 5


def test_what_tensorrt_refuses_is_one_line(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _require_tensorrt()
    monkeypatch.setattr(
        "build_engine.compilers.tensorrt_rtx.write_graphs",
        lambda plan, root, *_, **__: [
            (root / "portable").mkdir(),
            (root / "portable/vision.onnx").write_bytes(b"no graph"),
        ],
    )
    with pytest.raises(BuildError, match=r"TensorRT-RTX to build engines/vision\.engine") as caught:
        compile_rtx(_request(tiny_qwen3_vl, tmp_path / "bundle", "rtx", gate=False))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
