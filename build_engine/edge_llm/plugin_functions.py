"""TensorRT plugin operators written as ONNX functions, so that an exported graph runs on a CPU exactly as it stands.

ONNX Runtime does not know the operators of the domains `trt_edgellm` and `trt`; a model-local function of the same name
defines each from standard operators, with the plugin's documented meaning. The graph's nodes and weights stay untouched.
Attention covers one sequence without a past: the whole prompt, or a prompt with its reply, in one pass.

Sources: docstrings and eager bodies of tensorrt_edgellm 0.11.0, `models/ops.py` (attention, NVFP4) and
`checkpoint/repacking.py` (INT4 layouts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from egm_edge.errors import BuildError

PLUGIN_DOMAINS = ("trt_edgellm", "trt")
FUNCTION_OPSET = 21
E2M1_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_VIT_ATTENTION = """
(q, k, v, cu_seqlens, carrier) => (out) {{
  heads = Constant <value_int: int = @num_heads> ()
  size = Constant <value_int: int = @head_size> ()
  scale = Constant <value_float: float = @attention_scale> ()
  axis0 = Constant <value_ints = [0]> ()
  minus1 = Constant <value_ints = [-1]> ()
  heads1 = Unsqueeze (heads, axis0)
  size1 = Unsqueeze (size, axis0)
  shape = Concat <axis = 0> (minus1, heads1, size1)
  q32 = Cast <to = 1> (q)
  k32 = Cast <to = 1> (k)
  v32 = Cast <to = 1> (v)
  q3 = Reshape (q32, shape)
  k3 = Reshape (k32, shape)
  v3 = Reshape (v32, shape)
  qh = Transpose <perm = [1, 0, 2]> (q3)
  kh = Transpose <perm = [1, 2, 0]> (k3)
  vh = Transpose <perm = [1, 0, 2]> (v3)
  products = MatMul (qh, kh)
  scores = Mul (products, scale)
  qshape = Shape (q3)
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  count = Gather (qshape, zero)
  places = Range (zero, count, one)
  column = Unsqueeze (places, minus1)
  borders = Cast <to = 7> (cu_seqlens)
  passed = LessOrEqual (borders, column)
  passed_int = Cast <to = 7> (passed)
  image = ReduceSum <keepdims = 0> (passed_int, minus1)
  image_column = Unsqueeze (image, minus1)
  same = Equal (image_column, image)
  minus_inf = Constant <value_float = -1e30> ()
  masked = Where (same, scores, minus_inf)
  weights = Softmax <axis = -1> (masked)
  mixed = MatMul (weights, vh)
  tokens = Transpose <perm = [1, 0, 2]> (mixed)
  own_shape = Shape (q)
  shaped = Reshape (tokens, own_shape)
  out = CastLike (shaped, q)
}}
"""

_ATTENTION = """
(qkv, past, query_lengths, cos_sin, past_lengths, page_table{gammas}, offsets, lengths, phase, contexts) => (out, present) {{
  qheads = Constant <value_int: int = @num_q_heads> ()
  kvheads = Constant <value_int: int = @num_kv_heads> ()
  size = Constant <value_int: int = @head_size> ()
  scale = Constant <value_float: float = @attention_scale> ()
  eps = Constant <value_float: float = @rms_norm_eps> ()
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  minus1 = Constant <value_ints = [-1]> ()
  two = Constant <value_int = 2> ()
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  qheads1 = Unsqueeze (qheads, axis0)
  kvheads1 = Unsqueeze (kvheads, axis0)
  size1 = Unsqueeze (size, axis0)
  widths = Concat <axis = 0> (qheads1, kvheads1, kvheads1)
  all32 = Cast <to = 1> (qkv)
  all_heads = Add (qheads1, kvheads1)
  every_head = Add (all_heads, kvheads1)
  shape = Concat <axis = 0> (minus1, every_head, size1)
  by_head = Reshape (all32, shape)
  q_raw, k_raw, v = Split <axis = 1> (by_head, widths)
  {normalise}
  cos_half, sin_half = Split <axis = 1, num_outputs = 2> (cos_sin)
  cos = Unsqueeze (cos_half, axis1)
  sin = Unsqueeze (sin_half, axis1)
  q1, q2 = Split <axis = 2, num_outputs = 2> (q_normed)
  q1c = Mul (q1, cos)
  q2s = Mul (q2, sin)
  q2c = Mul (q2, cos)
  q1s = Mul (q1, sin)
  q_low = Sub (q1c, q2s)
  q_high = Add (q2c, q1s)
  q = Concat <axis = 2> (q_low, q_high)
  k1, k2 = Split <axis = 2, num_outputs = 2> (k_normed)
  k1c = Mul (k1, cos)
  k2s = Mul (k2, sin)
  k2c = Mul (k2, cos)
  k1s = Mul (k1, sin)
  k_low = Sub (k1c, k2s)
  k_high = Add (k2c, k1s)
  k = Concat <axis = 2> (k_low, k_high)
  group = Div (qheads1, kvheads1)
  grouped = Concat <axis = 0> (minus1, kvheads1, group, size1)
  q_grouped = Reshape (q, grouped)
  qh = Transpose <perm = [1, 2, 0, 3]> (q_grouped)
  k_heads = Transpose <perm = [1, 2, 0]> (k)
  kh = Unsqueeze (k_heads, axis1)
  v_heads = Transpose <perm = [1, 0, 2]> (v)
  vh = Unsqueeze (v_heads, axis1)
  products = MatMul (qh, kh)
  scores = Mul (products, scale)
  qkv_shape = Shape (qkv)
  count = Gather (qkv_shape, zero)
  places = Range (zero, count, one)
  column = Unsqueeze (places, minus1)
  visible = LessOrEqual (places, column)
  minus_inf = Constant <value_float = -1e30> ()
  masked = Where (visible, scores, minus_inf)
  weights = Softmax <axis = -1> (masked)
  mixed = MatMul (weights, vh)
  tokens = Transpose <perm = [2, 0, 1, 3]> (mixed)
  out_shape = Concat <axis = 0> (minus1, qheads1, size1)
  shaped = Reshape (tokens, out_shape)
  out = CastLike (shaped, qkv)
  present = Identity (past)
}}
"""
_NO_NORM = "q_normed = Identity (q_raw)\n  k_normed = Identity (k_raw)"
_QK_NORM = "\n  ".join(
    f"""{x}_squares = Mul ({x}_raw, {x}_raw)
  {x}_mean = ReduceMean <keepdims = 1> ({x}_squares, minus1)
  {x}_safe = Add ({x}_mean, eps)
  {x}_root = Sqrt ({x}_safe)
  {x}_unit = Div ({x}_raw, {x}_root)
  {x}_gamma32 = Cast <to = 1> ({x}_gamma)
  {x}_normed = Mul ({x}_unit, {x}_gamma32)"""
    for x in "qk"
)

# The low nibble of a byte, then its high one: [..., 2].
_NIBBLES = """
  wide = Cast <to = 6> (qweight)
  byte = Constant <value = int32 {{256}}> ()
  sixteen = Constant <value = int32 {{16}}> ()
  lifted = Add (wide, byte)
  unsigned = Mod (lifted, byte)
  low = Mod (unsigned, sixteen)
  high = Div (unsigned, sixteen)
  last = Constant <value_ints = [-1]> ()
  low1 = Unsqueeze (low, last)
  high1 = Unsqueeze (high, last)
  nibbles = Concat <axis = -1> (low1, high1)
"""
# From nibbles as [N, K] of 0..15 to the product. Zero is stored as 8.
_INT4_PRODUCT = """
  eight = Constant <value = float {{8}}> ()
  levels = Cast <to = 1> (placed)
  centred = Sub (levels, eight)
  scales32 = Cast <to = 1> (scales)
  by_row = Transpose <perm = [1, 0]> (scales32)
  by_group = Unsqueeze (by_row, last)
  grouped_shape = Concat <axis = 0> (n1, last, group1)
  in_groups = Reshape (centred, grouped_shape)
  scaled = Mul (in_groups, by_group)
  full_shape = Concat <axis = 0> (n1, k1)
  weight = Reshape (scaled, full_shape)
  weight_t = Transpose <perm = [1, 0]> (weight)
  x32 = Cast <to = 1> (x)
  y32 = MatMul (x32, weight_t)
  y = CastLike (y32, x)
}}
"""
_INT4_SIZES = """
  n = Constant <value_int: int = @gemm_n> ()
  k = Constant <value_int: int = @gemm_k> ()
  group = Constant <value_int: int = @group_size> ()
  axis0 = Constant <value_ints = [0]> ()
  n1 = Unsqueeze (n, axis0)
  k1 = Unsqueeze (k, axis0)
  group1 = Unsqueeze (group, axis0)
"""
# Rows are (128-wide block of N, 64-wide tile of K, 16 of K, 64 of N); a row's 512 bytes are (32 of N, 4 of K pairs,
# odd K, upper 32 of N), and a byte's nibbles lie 8 apart in K. Blocks beyond N are padding.
_INT4_V2 = (
    "(x, qweight, scales) => (y) {{"
    + _INT4_SIZES
    + _NIBBLES
    + """
  tile = Constant <value_ints = [64]> ()
  k_tiles = Div (k1, tile)
  parts = Constant <value_ints = [4, 2, 32, 4, 2, 2, 2]> ()
  fragment_shape = Concat <axis = 0> (last, k_tiles, parts)
  fragments = Reshape (nibbles, fragment_shape)
  ordered = Transpose <perm = [0, 3, 7, 4, 1, 2, 8, 5, 6]> (fragments)
  padded_shape = Concat <axis = 0> (last, k1)
  padded = Reshape (ordered, padded_shape)
  placed = Slice (padded, axis0, n1, axis0)
"""
    + _INT4_PRODUCT
)

_QKV_CONCAT = "(q, k, v) => (qkv) {{ qkv = Concat <axis = -1> (q, k, v) }}"

# x in blocks of 16; a block's scale is its largest magnitude over 6, kept in E4M3 relative to `scale`. Outputs the E2M1
# values and the E4M3 scales, both as float32 of x's shape. A tie between two levels goes to the even code.
_FP4_QUANTIZE = """
(x, scale) => (levels, block_scales) {{
  x32 = Cast <to = 1> (x)
  sixteen = Constant <value_ints = [16]> ()
  minus1 = Constant <value_ints = [-1]> ()
  axis0 = Constant <value_ints = [0]> ()
  own_shape = Shape (x)
  leading = Shape <end = -1> (x)
  block_shape = Concat <axis = 0> (leading, minus1, sixteen)
  blocks = Reshape (x32, block_shape)
  block_dims = Shape (blocks)
  magnitudes = Abs (blocks)
  largest = ReduceMax <keepdims = 1> (magnitudes, minus1)
  six = Constant <value = float {{6}}> ()
  needed = Div (largest, six)
  scale32 = Cast <to = 1> (scale)
  one_scale = Reshape (scale32, minus1)
  relative = Div (needed, one_scale)
  most = Constant <value = float {{448}}> ()
  clipped = Min (relative, most)
  stored = Cast <to = 17> (clipped)
  kept = Cast <to = 1> (stored)
  zero = Constant <value = float {{0}}> ()
  one = Constant <value = float {{1}}> ()
  empty = Equal (needed, zero)
  kept_safe = Where (empty, one, kept)
  full_scale = Mul (kept_safe, one_scale)
  tiny = Constant <value = float {{1e-20}}> ()
  divisor = Max (full_scale, tiny)
  units = Div (blocks, divisor)
  sizes = Abs (units)
  sign = Sign (units)
  low = Constant <value = float[4] {{0.25, 1.25, 2.5, 5}}> ()
  low_steps = Constant <value = float[4] {{0.5, 0.5, 1, 2}}> ()
  high = Constant <value = float[3] {{0.75, 1.75, 3.5}}> ()
  high_steps = Constant <value = float[3] {{0.5, 0.5, 1}}> ()
  each = Unsqueeze (sizes, minus1)
  over_low = Greater (each, low)
  over_high = GreaterOrEqual (each, high)
  over_low32 = Cast <to = 1> (over_low)
  over_high32 = Cast <to = 1> (over_high)
  low_parts = Mul (over_low32, low_steps)
  high_parts = Mul (over_high32, high_steps)
  low_sum = ReduceSum <keepdims = 0> (low_parts, minus1)
  high_sum = ReduceSum <keepdims = 0> (high_parts, minus1)
  rounded = Add (low_sum, high_sum)
  signed = Mul (rounded, sign)
  levels = Reshape (signed, own_shape)
  block_ones = ConstantOfShape <value = float[1] {{1}}> (block_dims)
  spread = Mul (kept_safe, block_ones)
  block_scales = Reshape (spread, own_shape)
}}
"""
# Levels times scale; both come from the function above, the scales already spread over their blocks.
_FP4_DEQUANTIZE = """
(x, scale) => (y) {{
  x32 = Cast <to = 1> (x)
  scale32 = Cast <to = 1> (scale)
  product = Mul (x32, scale32)
  y = CastLike (product, scale)
}}
"""
# levels [out, in], one scale for 16 of them: scales [out, in / 16].
_FP4_WEIGHT = """
(levels, scales) => (weight) {{
  minus1 = Constant <value_ints = [-1]> ()
  block_shape = Constant <value_ints = [0, -1, 16]> ()
  blocks = Reshape (levels, block_shape)
  each = Unsqueeze (scales, minus1)
  scaled = Mul (blocks, each)
  own_shape = Shape (levels)
  weight = Reshape (scaled, own_shape)
}}
"""

Builder = Callable[[onnx.NodeProto], str]


def _attention(node: onnx.NodeProto) -> str:
    with_norm = any(a.name == "enable_qk_norm" and a.i for a in node.attribute)
    gammas = ", q_gamma, k_gamma" if with_norm else ""
    return _ATTENTION.format(gammas=gammas, normalise=_QK_NORM if with_norm else _NO_NORM)


_FUNCTIONS: dict[tuple[str, str], Builder] = {
    ("trt_edgellm", "ViTAttentionPlugin"): lambda node: _VIT_ATTENTION.format(),
    ("trt_edgellm", "AttentionPlugin"): _attention,
    ("trt_edgellm", "Int4GroupwiseGemmPluginV2"): lambda node: _INT4_V2.format(),
    ("trt_edgellm", "QkvConcatPlugin"): lambda node: _QKV_CONCAT.format(),
    ("trt", "TRT_FP4DynamicQuantize"): lambda node: _FP4_QUANTIZE.format(),
    ("trt", "DequantizeLinear"): lambda node: _FP4_DEQUANTIZE.format(),
}


def add_functions(model: ModelProto) -> list[str]:
    """Give every plugin operator of `model` its function; the names of the operators that got one.

    Raises:
        BuildError: an operator that has no function here; the graph cannot be checked.
    """
    first: dict[tuple[str, str], onnx.NodeProto] = {}
    attributes: dict[tuple[str, str], set[str]] = {}
    for node in model.graph.node:
        if node.domain in PLUGIN_DOMAINS:
            first.setdefault((node.domain, node.op_type), node)
            attributes.setdefault((node.domain, node.op_type), set()).update(a.name for a in node.attribute)
    unknown = sorted(f"{domain}.{name}" for domain, name in first if (domain, name) not in _FUNCTIONS)
    if unknown:
        raise BuildError("plugin operators of TensorRT Edge-LLM 0.11", ", ".join(unknown), "report this")
    for (domain, name), node in first.items():
        model.functions.append(_function(domain, name, attributes[domain, name], _FUNCTIONS[domain, name](node)))
    return [name for _, name in first]


def unpack_fp4_weights(model: ModelProto, folder: Path) -> None:
    """Unpack E2M1 weights to float32 and multiply their scales in with a function: ONNX Runtime's CPU provider does not read
    the 4-bit float type. The one change to a graph; the numbers are the same.

    Args:
        folder: holds the graph's external data.
    """
    packed = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT4E2M1}
    if not packed:
        return
    for tensor in packed.values():
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(folder))
        codes = np.frombuffer(tensor.raw_data, np.uint8)
        nibbles = np.stack([codes & 15, codes >> 4], 1).reshape(tensor.dims)
        levels = np.asarray(E2M1_LEVELS, np.float32)[nibbles & 7] * np.where(nibbles > 7, -1, 1)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(levels.astype(np.float32), name))
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in packed:
            node.domain, node.op_type = "egm", "Fp4Weight"
            del node.attribute[:]
    model.opset_import.append(helper.make_opsetid("egm", 1))
    model.functions.append(_function("egm", "Fp4Weight", set(), _FP4_WEIGHT.format()))


def _function(domain: str, name: str, attributes: set[str], body: str) -> FunctionProto:
    """Every attribute is declared, used or not; those that only some nodes carry have no meaning in `body`."""
    head = f'<domain: "{domain}", opset_import: ["" : {FUNCTION_OPSET}]>\n{name}'
    declared = f" <{', '.join(sorted(attributes))}>" if attributes else ""
    return parser.parse_function(f"{head}{declared} {body.strip()}")


def load_runnable(path: Path) -> tuple[ModelProto, Sequence[str]]:
    """The graph of `path`, weights still in their own file, with its functions."""
    model = onnx.load(str(path), load_external_data=False)
    _widen_quantized_inputs(model)
    return model, add_functions(model)


def _widen_quantized_inputs(model: ModelProto) -> None:
    """QuantizeLinear of FP16 by a float32 scale is standard since opset 23, and ONNX Runtime's CPU kernels do not know it:
    the input is cast to float32 first, which changes no value."""
    wide = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and not node.domain and node.input[1] in wide:
            name = f"{node.output[0]}_float32"
            nodes.append(onnx.helper.make_node("Cast", [node.input[0]], [name], to=onnx.TensorProto.FLOAT))
            node.input[0] = name
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
