"""INT4 weights in portable graphs: the very weights that were rounded; mistakes that the build's gate refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from build_engine.exporters import portable_graph
from build_engine.exporters.graph import WeightFormat
from build_engine.exporters.portable_graph import PortableGraphWriter
from build_engine.quantize import BlockRounded, round_blocks
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.assets import shipped_checkpoint
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from tests.support.portable_bundle import write_portable_bundle


def _written(path: Path, weight: np.ndarray) -> Path:
    """A graph of one INT4 layer, x f32 [1, n, K] to y f32 [1, n, N]."""
    n, k = weight.shape
    with PortableGraphWriter(path, precision="fp16") as graph:
        x = graph.input("x", np.float32, [1, "n", k])
        y = graph.linear(x, "layer", (n, k), lambda a, b: weight[a:b], WeightFormat.INT4)
        graph.output(y, np.float32, [1, "n", n], name="y")
    return path


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        pytest.param((300, 256), 128, id="whole blocks of 128"),
        pytest.param((6, 192), 64, id="blocks of 64 where 128 does not divide"),
        pytest.param((7, 64), 64, id="an odd number of outputs"),
    ],
)
def test_a_layer_multiplies_by_the_rounded_weights(tmp_path: Path, shape: tuple[int, int], block: int) -> None:
    weight = np.random.default_rng(0).normal(0, 0.05, shape).astype(np.float32)
    rounded = round_blocks(weight, 4, block, signed_scales=False, scale_dtype=np.float16)
    expected = (rounded.values * rounded.scales[..., None]).reshape(shape)
    session = ort.InferenceSession(str(_written(tmp_path / "g.onnx", weight)), providers=["CPUExecutionProvider"])
    eye = np.eye(shape[1], dtype=np.float32)[None]
    found = np.concatenate([session.run(["y"], {"x": eye[:, i : i + 1]})[0] for i in range(shape[1])], 1)[0].T
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)  # the CPU kernels round a row to 8 bits


def test_a_layer_that_no_block_divides_stays_in_16_bits(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 0.05, (8, 160)).astype(np.float32)
    model = onnx.load(str(_written(tmp_path / "g.onnx", weight)))
    assert {node.op_type for node in model.graph.node} == {"Cast", "MatMul", "Identity"}


def test_the_graph_for_tensorrt_is_standard_onnx_with_positive_scales(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(0, 0.05, (64, 256)).astype(np.float32)
    path = _written(tmp_path / "g.onnx", weight)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path))
    assert {node.domain for node in model.graph.node} == {""}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    assert weights["layer.int4"].data_type == onnx.TensorProto.INT4
    assert (onnx.numpy_helper.to_array(weights["layer.scales"]) > 0).all()


def _built(checkpoint: Path, out_dir: Path, **options: Any) -> Bundle:
    return write_portable_bundle(
        BuildRequest(checkpoint=checkpoint, out_dir=out_dir, target=target_for("rtx"), precision="int4", **options)
    )


@pytest.mark.parametrize("family", ["nano", "tiny_qwen3_vl", "tiny_internvl3"])
def test_int4_graphs_follow_transformers(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("transformers")
    checkpoint = shipped_checkpoint() if family == "nano" else request.getfixturevalue(family)
    graphs = _built(checkpoint, tmp_path / "bundle").manifest.parity["graphs"]
    assert (graphs["status"], graphs["precision"]) == ("verified", "int4")
    stages = {stage["name"]: stage for stage in graphs["stages"]}
    assert stages["vision embedding"]["worst"] < 0.01, "the vision tower is not quantized"
    assert 1e-4 < stages["prefill logits"]["worst"] < 0.1, "the decoder is, and the check sees it"


def test_a_decoder_without_a_layer_to_quantize_is_refused(tmp_path: Path) -> None:
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    narrow = write_tiny_qwen3_vl(tmp_path / "narrow", hidden_size=48, intermediate_size=96, heads=2, head_dim=24)
    with pytest.raises(BuildError, match=r"multiple of 64.*48 wide.*--precision fp16"):
        _built(narrow, tmp_path / "bundle", gate=False)


def _scales(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., BlockRounded]:
    def rounded(*args: Any, **options: Any) -> BlockRounded:
        found = round_blocks(*args, **options)
        return BlockRounded(found.values, np.ascontiguousarray(change(found.scales)))

    return rounded


def _swapped(values: np.ndarray) -> np.ndarray:
    packed = _pack(values)
    return (packed << 4 | packed >> 4).astype(np.uint8)


_pack = portable_graph.pack_nibbles


@pytest.mark.parametrize(
    ("what", "mistake"),
    [
        pytest.param("pack_nibbles", _swapped, id="high nibble first"),
        pytest.param("round_blocks", _scales(lambda s: s * 2), id="scales doubled", marks=pytest.mark.long),
        pytest.param("round_blocks", _scales(lambda s: -s), id="scales negated", marks=pytest.mark.long),
        pytest.param("round_blocks", _scales(lambda s: np.roll(s, 1, 0)), id="scales of the next output", marks=pytest.mark.long),
        pytest.param("round_blocks", _scales(lambda s: np.roll(s, 1, 1)), id="scales of the next block"),
    ],
)
def test_the_gate_refuses_weights_that_are_packed_or_scaled_wrongly(
    what: str, mistake: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(portable_graph, what, mistake)
    with pytest.raises(BuildError, match="prefill logits"):
        _built(shipped_checkpoint(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
