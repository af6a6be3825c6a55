"""GraphWriter: an ONNX graph under construction, its weights streamed straight into one external-data file.

Knows node and tensor mechanics and the three ways to write a linear layer; knows nothing of any model. Weights reach
disk as soon as they are added, so peak memory is one layer's, whatever the size of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from build_engine.checkpoint import Checkpoint
from build_engine.quantize import quantize_blocks, quantize_channels

MICROSOFT = "com.microsoft"
OPSET_ONNX = 21
IR_VERSION = 10
ALIGNMENT_BYTES = 4096  # ONNX Runtime memory-maps external data by page
INLINE_BYTES = 1024
ROWS_PER_CHUNK = 256

Rows = Callable[[int, int], NDArray[np.float32]]


class WeightFormat(str, Enum):
    """How linear weights are stored and multiplied on the CPU (ONNX Runtime operator in brackets).

    FP32 [MatMul]. INT8 and INT4: weights in blocks, activations rounded per row and block [MatMulNBits,
    accuracy_level 4: int8 dot products]. W8A8: one scale per output feature, activations rounded per row
    [MatMulIntegerToFloat]: twice the speed of the block formats on many rows, slower on one. FP8: in portable graphs only.
    """

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    W8A8 = "w8a8"
    FP8 = "fp8"


class GraphWriter:
    """Collects nodes; `save` writes NAME.onnx beside the NAME.onnx.data that the weights went to.

    Args:
        path: where the .onnx file goes.
        block_size: inputs per scale of the INT8 and INT4 formats.
    """

    def __init__(self, path: Path, *, block_size: int = 128) -> None:
        self.path = path
        self.block_size = block_size
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._shared: dict[tuple[Any, ...], str] = {}
        self._rounded: dict[str, tuple[str, str]] = {}
        self._count = 0
        self._data: BinaryIO = path.with_name(path.name + ".data").open("wb")

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        if kind is None:
            self._save()

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        self._inputs.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        )
        return name

    def output(self, value: str, dtype: Any, shape: Sequence[int | str], *, name: str = "") -> None:
        if name and name != value:
            self._nodes.append(helper.make_node("Identity", [value], [name]))
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._outputs.append(helper.make_tensor_value_info(name or value, kind, shape))

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", names: Sequence[str] = (), **attributes: Any
    ) -> Any:
        """Add a node; returns its output name, or a tuple of them when `outputs` > 1. "" skips an optional output."""
        self._count += 1
        made = list(names) or [f"{kind}_{self._count}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), made, domain=domain, **attributes))
        return made[0] if len(made) == 1 else tuple(made)

    def contrib(self, kind: str, *inputs: str, **attributes: Any) -> Any:
        """Add a node of ONNX Runtime's own operator set."""
        return self.op(kind, *inputs, domain=MICROSOFT, **attributes)

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """A small constant, written once however often it is asked for."""
        array = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.weight(f"constant_{len(self._shared)}", array)
        return self._shared[key]

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Store an array; large ones go to the external-data file."""
        array = np.ascontiguousarray(array)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.nbytes <= INLINE_BYTES:
            self._initializers.append(helper.make_tensor(name, dtype, array.shape, array.tobytes(), raw=True))
        else:
            self._stream(name, dtype, array.shape, [array])
        return name

    def native(self, x: str) -> str:
        """A float32 value in the type that this graph computes in."""
        return x

    def layer_norm(
        self, x: str, name: str, scale: NDArray[np.float32], bias: NDArray[np.float32], epsilon: float
    ) -> str:
        gamma, beta = self.weight(name + ".scale", scale), self.weight(name + ".bias", bias)
        return str(self.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=epsilon))

    def rms_norm(self, x: str, name: str, scale: NDArray[np.float32], epsilon: float) -> str:
        return str(
            self.op("SimplifiedLayerNormalization", x, self.weight(name, scale), axis=-1, epsilon=epsilon, stash_type=1)
        )

    def linear(
        self,
        x: str,
        name: str,
        shape: tuple[int, int],
        rows: Rows,
        fmt: WeightFormat,
        bias: NDArray[np.float32] | None = None,
    ) -> str:
        """x @ W.T + bias.

        Args:
            x: value name, float32 [..., K].
            name: prefix of the weight names.
            shape: (N, K) of the Hugging Face weight W.
            rows: `rows(start, stop)` gives W[start:stop] as float32.
            fmt: storage and arithmetic.
            bias: float32 [N] or None.
        """
        if fmt is WeightFormat.W8A8:
            y = self._linear_w8a8(x, name, shape, rows)
        elif fmt is WeightFormat.FP32:
            y = self._linear_plain(x, name, shape, rows)
        elif fmt is WeightFormat.FP8:
            y = self._linear_fp8(x, name, shape, rows)
        else:
            y = self._linear_blocks(x, name, shape, rows, 4 if fmt is WeightFormat.INT4 else 8)
        return y if bias is None else str(self.op("Add", y, self.weight(name + ".bias", bias)))

    def _linear_plain(self, x: str, name: str, shape: tuple[int, int], rows: Rows) -> str:
        transposed = np.ascontiguousarray(rows(0, shape[0]).T)
        return str(self.op("MatMul", x, self.weight(name, transposed)))

    def _linear_fp8(self, x: str, name: str, shape: tuple[int, int], rows: Rows) -> str:
        raise NotImplementedError("ONNX Runtime's CPU kernels have no FP8 products")

    def _linear_blocks(self, x: str, name: str, shape: tuple[int, int], rows: Rows, bits: int) -> str:
        n, k = shape
        blocks = -(-k // self.block_size)
        scales = np.empty((n, blocks), np.float32)

        def packed_chunks() -> Any:
            for start in range(0, n, ROWS_PER_CHUNK):
                stop = min(start + ROWS_PER_CHUNK, n)
                chunk = quantize_blocks(rows(start, stop), bits, self.block_size)
                scales[start:stop] = chunk.scales
                yield chunk.packed

        packed_shape = (n, blocks, self.block_size * bits // 8)
        packed = self._stream(f"{name}.int{bits}", TensorProto.UINT8, packed_shape, packed_chunks())
        attributes = {"K": k, "N": n, "bits": bits, "block_size": self.block_size, "accuracy_level": 4}
        return str(
            self.contrib("MatMulNBits", x, packed, self.weight(f"{name}.scales", scales.reshape(-1)), **attributes)
        )

    def _linear_w8a8(self, x: str, name: str, shape: tuple[int, int], rows: Rows) -> str:
        values, scales = quantize_channels(rows(0, shape[0]))
        weight = self.weight(f"{name}.w8", values.T)
        quantized, row_scale = self._rounded_rows(x)
        # A zero of its own: ONNX Runtime's x64quantprecision rewrites weight and zero together, and fails on a shared one.
        zeros = (self.constant(128, np.uint8), self.weight(f"{name}.w8_zero", np.zeros((), np.int8)))
        channel_scales = self.weight(f"{name}.w8_scales", scales)
        product = self.contrib("MatMulIntegerToFloat", quantized, weight, self.constant(1.0), channel_scales, *zeros)
        return str(self.op("Mul", product, row_scale))

    def _rounded_rows(self, x: str) -> tuple[str, str]:
        """x as uint8 with one scale per row, so that a single outlier token cannot coarsen the others; once per value.

        Returns:
            uint8 rows with zero point 128, float32 scales [..., 1].
        """
        if x not in self._rounded:
            largest = self.op("ReduceMax", self.op("Abs", x), self.constant([-1], np.int64), keepdims=1)
            scale = self.op("Mul", self.op("Max", largest, self.constant([1e-12])), self.constant([1 / 127]))
            unit_rows = self.op("Div", x, scale)
            rounded = self.op("QuantizeLinear", unit_rows, self.constant(1.0), self.constant(128, np.uint8))
            self._rounded[x] = (rounded, scale)
        return self._rounded[x]

    def _stream(self, name: str, dtype: int, shape: Sequence[int], chunks: Any) -> str:
        self._data.seek(-(-self._data.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
        start = self._data.tell()
        for chunk in chunks:
            self._data.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
        tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        where = {"location": self.path.name + ".data", "offset": start, "length": self._data.tell() - start}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        self._initializers.append(tensor)
        return name

    def _save(self) -> None:
        graph = helper.make_graph(self._nodes, self.path.stem, self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid("", OPSET_ONNX), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, producer_name="egm-edge", opset_imports=opsets, ir_version=IR_VERSION)
        self.path.write_bytes(model.SerializeToString(deterministic=True))


def write_linear(graph: GraphWriter, checkpoint: Checkpoint, x: str, name: str, fmt: WeightFormat) -> str:
    """The checkpoint's linear layer `name` on x, its bias added where it has one."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    rows, columns = checkpoint.shape(weight)
    stored = checkpoint.float32(bias) if bias in checkpoint else None
    return graph.linear(x, name, (rows, columns), partial(checkpoint.rows_float32, weight), fmt, stored)
