"""TensorRT plugin operators written as ONNX functions, so that an exported graph runs on a CPU exactly as it stands.

ONNX Runtime does not know the operators of the domains `trt_edgellm` and `trt`; a model-local function of the same name
defines each from standard operators, with the plugin's documented meaning. The graph's nodes and weights stay untouched.
Attention covers one sequence without a past: the whole prompt, or a prompt with its reply, in one pass.

Sources: docstrings and eager bodies of tensorrt_edgellm 0.11.0, `models/ops.py` (attention, NVFP4) and
`checkpoint/repacking.py` (INT4 layouts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from egm_edge.errors import BuildError

PLUGIN_DOMAINS = ("trt_edgellm", "trt")
FUNCTION_OPSET = 21
E2M1_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
TEXT = Path(__file__).with_suffix(".txt")
_NO_NORM = "q_normed = Identity (q_raw)\n  k_normed = Identity (k_raw)"


def _bodies() -> dict[str, str]:
    """Functions by the operator that they define, as plugin_functions.txt has them."""
    text = "\n".join(line for line in TEXT.read_text("utf-8").splitlines() if not line.startswith("#"))
    return {name: body.strip() for name, _, body in (part.partition("\n") for part in text.split("\n= ")[1:])}


def _body(node: onnx.NodeProto, bodies: Mapping[str, str]) -> str:
    with_norm = any(a.name == "enable_qk_norm" and a.i for a in node.attribute)
    norms = "\n  ".join(bodies["q_k_norm"].replace("x_", f"{x}_") for x in "qk") if with_norm else _NO_NORM
    gammas = ", q_gamma, k_gamma" if with_norm else ""
    return bodies[f"{node.domain}.{node.op_type}"].replace("$gammas", gammas).replace("$normalise", norms)


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
    bodies = _bodies()
    unknown = sorted(f"{domain}.{name}" for domain, name in first if f"{domain}.{name}" not in bodies)
    if unknown:
        raise BuildError("plugin operators of TensorRT Edge-LLM 0.11", ", ".join(unknown), "report this")
    for (domain, name), node in first.items():
        model.functions.append(_function(domain, name, attributes[domain, name], _body(node, bodies)))
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
    model.functions.append(_function("egm", "Fp4Weight", set(), _bodies()["egm.Fp4Weight"]))


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
