"""Plugin operators as ONNX functions, each against a plain NumPy account of what the plugin is documented to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from build_engine.edge_llm.plugin_functions import add_functions
from egm_edge.errors import BuildError

RNG = np.random.default_rng(0)


def run(domain: str, op: str, feeds: dict[str, NDArray], outputs: list[str], **attributes: object) -> list[NDArray]:
    """One plugin node, run through its function."""
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    node = helper.make_node(op, list(feeds), outputs, domain=domain, **attributes)
    for value in values:
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    graph = helper.make_graph([node], "g", inputs, values)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    add_functions(model)
    if op == "TRT_FP4DynamicQuantize":
        for value in model.graph.output:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options).run(outputs, feeds)


def half(*shape: int) -> NDArray[np.float16]:
    return RNG.standard_normal(shape).astype(np.float16)


def attention(q: NDArray, k: NDArray, v: NDArray, visible: NDArray, scale: float) -> NDArray:
    """[T, heads, d] each; visible [T, T]."""
    scores = np.einsum("thd,shd->hts", q, k) * scale
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v)


def test_vision_attention_stays_inside_each_picture() -> None:
    q, k, v = (half(10, 2, 8) for _ in range(3))
    borders = np.asarray([0, 4, 10], np.int32)
    feeds = {"q": q, "k": k, "v": v, "cu": borders, "carrier": np.zeros(6, np.int32)}
    [found] = run("trt_edgellm", "ViTAttentionPlugin", feeds, ["o"], num_heads=2, head_size=8, attention_scale=0.3)
    picture = np.searchsorted(borders, np.arange(10), side="right")
    expected = attention(*(x.astype(np.float64) for x in (q, k, v)), picture[:, None] == picture, 0.3)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("with_norm", [True, False], ids=["Qwen3: q and k are normed", "Qwen2: they are not"])
def test_decoder_attention(with_norm: bool) -> None:
    tokens, q_heads, kv_heads, size = 7, 4, 2, 8
    qkv = half(tokens, (q_heads + 2 * kv_heads) * size)
    angles = RNG.standard_normal((tokens, size // 2)).astype(np.float32)
    gammas = {"qg": half(size), "kg": half(size)} if with_norm else {}
    one = np.asarray([tokens], np.int32)
    feeds = {
        "qkv": qkv, "past": np.zeros((2, 2, 128, kv_heads, size), np.float16), "ql": one,
        "cs": np.concatenate([np.cos(angles), np.sin(angles)], 1), "pl": one * 0,
        "pages": np.zeros((1, 2, 1), np.int32), **gammas,
        "off": np.asarray([0, tokens], np.int32), "len": one, "ph": one, "cc": one,
    }  # fmt: skip
    found, _ = run(
        "trt_edgellm", "AttentionPlugin", feeds, ["o", "p"], num_q_heads=q_heads, num_kv_heads=kv_heads, head_size=size,
        attention_scale=0.35, rms_norm_eps=1e-6, enable_qk_norm=int(with_norm),
    )  # fmt: skip
    q, k, v = np.split(qkv.astype(np.float64).reshape(tokens, -1, size), [q_heads, q_heads + kv_heads], axis=1)
    if with_norm:
        q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gammas[g] for x, g in ((q, "qg"), (k, "kg")))

    def rotate(x: NDArray) -> NDArray:
        low, high = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)

    k, v = (np.repeat(x, q_heads // kv_heads, axis=1) for x in (rotate(k), v))
    expected = attention(rotate(q), k, v, np.tril(np.ones((tokens, tokens), bool)), 0.35)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=5e-3)


def fragment_layout(nibbles: NDArray[np.int64]) -> NDArray[np.int8]:
    """[N, K] of 0..15 in the CuTe DSL fragment order, word by word as the layout is described upstream."""
    n_blocks, k_tiles = -(-nibbles.shape[0] // 128), nibbles.shape[1] // 64
    padded = np.full((n_blocks * 128, k_tiles * 64), 8, np.int64)
    padded[: nibbles.shape[0]] = nibbles
    words = np.zeros((n_blocks * k_tiles * 8, 128), np.uint32)
    places = [(0, 0, 0), (4, 0, 8), (8, 32, 0), (12, 32, 8), (16, 0, 1), (20, 0, 9), (24, 32, 1), (28, 32, 9)]
    for row in range(len(words)):
        block, tile, part = row // 8 // k_tiles, row // 8 % k_tiles, row % 8
        for thread in range(128):
            n = block * 128 + thread // 4 + 64 * (part % 2)
            k = tile * 64 + 16 * (part // 2) + 2 * (thread % 4)
            words[row, thread] = sum(int(padded[n + up, k + on]) << shift for shift, up, on in places)
    return words.view(np.int8).reshape(len(words), 512)


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (64, 256), (192, 128)])
def test_int4_product_unpacks_the_fragment_layout(rows: int, columns: int) -> None:
    nibbles = RNG.integers(0, 16, (rows, columns))
    scales = (RNG.random((columns // 128, rows)) * 0.1).astype(np.float16)
    x = half(3, columns)
    feeds = {"x": x, "w": fragment_layout(nibbles), "s": scales}
    [found] = run("trt_edgellm", "Int4GroupwiseGemmPluginV2", feeds, ["y"], gemm_n=rows, gemm_k=columns, group_size=128)
    weight = (nibbles - 8) * np.repeat(scales.T.astype(np.float64), 128, axis=1)
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight.T, rtol=2e-3, atol=5e-3)


def test_fp4_rounding_takes_the_nearest_level_and_the_even_code_on_ties() -> None:
    grid = np.asarray(
        [0, 0.25, 0.3, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 5.1, -0.75, -2.5, 6.0, -6.0, 0.5, -1.5], np.float16
    )
    feeds = {"x": grid[None], "s": np.asarray(1.0, np.float32)}
    levels, scales = run("trt", "TRT_FP4DynamicQuantize", feeds, ["q", "s8"], axis=-1, block_size=16, scale_type=17)
    expected = [0, 0, 0.5, 1, 1, 2, 2, 4, 4, 6, -1, -2, 6, -6, 0.5, -1.5]
    np.testing.assert_array_equal(levels[0], expected)
    np.testing.assert_array_equal(scales, np.ones((1, 16)))


def test_an_unknown_plugin_operator_is_refused() -> None:
    node = helper.make_node("MambaPlugin", ["x"], ["y"], domain="trt_edgellm")
    graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(np.zeros(1), "x")])
    with pytest.raises(BuildError, match="MambaPlugin"):
        add_functions(onnx.helper.make_model(graph))
