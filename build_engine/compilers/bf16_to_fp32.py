"""bfloat16 graphs in float32, for machines whose ONNX Runtime multiplies no bfloat16: weights keep their rounded values, sums are
finer than the GPU's. Checks the graph, not the GPU's arithmetic."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper

from egm_edge.bundle import Bundle

LARGE_BYTES = 1024  # weights from here on lie in a file of their own, as in the original


@contextmanager
def bf16_to_fp32(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle like `bundle` in a temporary folder: its graphs in float32, everything else by link."""
    with tempfile.TemporaryDirectory(prefix="egm-bf16_to_fp32-") as folder:
        for name in bundle.manifest.files:
            source, target = bundle.root / name, Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".onnx":
                model = onnx.load(str(source))
                widen(model.graph)
                data = f"{target.name}.data"
                onnx.save(model, str(target), save_as_external_data=True, location=data, size_threshold=LARGE_BYTES)
            elif not target.name.endswith(".onnx.data"):
                os.symlink(source.resolve(), target)
        yield Bundle(Path(folder), bundle.manifest)


def widen(graph: GraphProto) -> None:
    """Make float32 of every bfloat16 in the graph: weights, constants, casts, inputs and outputs."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
