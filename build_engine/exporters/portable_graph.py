"""PortableGraphWriter: the exporters' graphs in standard ONNX operators and 16-bit floats, for GPU runtimes.

TensorRT parses no ONNX Runtime contrib operators, so what the CPU graphs say with them is spelled out here. Host-side
values enter and leave as float32; keys and values stay in the graph's own type on the device. Sums over many values (norms)
and pixels are computed in float32. INT4 and FP8 layers stay so in the graph. Knows nothing of any model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from build_engine.exporters.graph import ROWS_PER_CHUNK, GraphWriter, Rows
from build_engine.quantize import fp8_scale, pack_nibbles, round_blocks, round_fp8
from egm_edge.errors import BuildError

DTYPES: dict[str, Any] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
EXACT = ("pixel_scale", "pixel_offset")  # a 16-bit scale would move pixels by up to half a grey level
FLOAT = 1
INT4_BLOCKS = (128, 64)  # inputs per scale: all that TensorRT takes, the cheaper first


class PortableGraphWriter(GraphWriter):
    """As GraphWriter. Linear layers are FP32, by which the graph's own type is meant; INT4, which falls back to it where no
    block size divides the inputs; or FP8 (E4M3), inputs rounded too, with one scale a tensor.

    Args:
        precision: of activations and plain weights: "fp16", "bf16", or "fp32" for checks.
        ranges: largest magnitude of a layer's input, by layer name; for FP8.

    Attributes:
        int4_layers: names of the layers that were written in INT4; plain_layers: of those that fell back.
    """

    def __init__(self, path: Path, *, precision: str, ranges: Mapping[str, float] | None = None) -> None:
        super().__init__(path)
        self.ranges = ranges or {}
        self._fp8_inputs: dict[tuple[str, float], str] = {}
        self.int4_layers: list[str] = []
        self.plain_layers: list[str] = []
        self.dtype = np.dtype(DTYPES[precision])
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self._exact_names: set[str] = set()
        self._translations: dict[str, Callable[..., str]] = {
            "MultiHeadAttention": self._multi_head_attention,
            "RotaryEmbedding": lambda x, _, cos, sin, num_heads: self.rotary(x, cos, sin, num_heads),
        }

    def __enter__(self) -> PortableGraphWriter:
        return self

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        value = super().input(name, dtype, shape)
        if dtype == np.float32:
            return self.native(value)
        # TensorRT does nothing with bytes but convert them.
        return str(self.op("Cast", value, to=FLOAT)) if dtype == np.uint8 else value

    def output(self, value: str, dtype: Any, shape: Sequence[int | str], *, name: str = "") -> None:
        super().output(str(self.op("Cast", value, to=FLOAT)), dtype, shape, name=name or value)

    def native_input(self, name: str, shape: Sequence[int | str]) -> str:
        """An input in the graph's own type (keys and values)."""
        return super().input(name, self.dtype, shape)

    def native_output(self, value: str, shape: Sequence[int | str], name: str) -> None:
        super().output(value, self.dtype, shape, name=name)

    def native(self, x: str) -> str:
        return str(self.op("Cast", x, to=self.kind))

    def weight(self, name: str, array: NDArray[Any]) -> str:
        if array.dtype != np.float32 or name in EXACT:
            return super().weight(name, array)
        narrow = array.astype(self.dtype)  # beyond the range: infinite
        if not np.isfinite(narrow.astype(np.float32)).all():
            raise BuildError(
                f"weights within {self.dtype.name}'s range",
                f"{name} up to {np.abs(array).max():.3g}",
                "use --precision bf16",
            )
        return super().weight(name, narrow)

    def contrib(self, kind: str, *inputs: str, **attributes: Any) -> Any:
        return self._translations[kind](*inputs, **attributes)

    def _linear_blocks(self, x: str, name: str, shape: tuple[int, int], rows: Rows, bits: int) -> str:
        """x @ W.T with rounded weights; positive scales in the graph's own type."""
        n, k = shape
        block = next((size for size in INT4_BLOCKS if k % size == 0), None)
        if block is None:
            self.plain_layers.append(name)
            return self._linear_plain(x, name, shape, rows)
        self.int4_layers.append(name)
        values, scales = np.empty((n, k), np.int8), np.empty((n, k // block), np.float32)
        for start in range(0, n, ROWS_PER_CHUNK):
            stop = min(start + ROWS_PER_CHUNK, n)
            rounded = round_blocks(rows(start, stop), bits, block, signed_scales=False, scale_dtype=self.dtype)
            values[start:stop], scales[start:stop] = rounded.values.reshape(stop - start, k), rounded.scales
        packed = pack_nibbles(np.ascontiguousarray(values.T).reshape(-1))
        weight = self._stream(f"{name}.int4", TensorProto.INT4, (k, n), [packed])
        scale = self.weight(f"{name}.scales", np.ascontiguousarray(scales.T))
        return str(self.op("MatMul", x, self.op("DequantizeLinear", weight, scale, axis=0, block_size=block)))

    def _linear_fp8(self, x: str, name: str, shape: tuple[int, int], rows: Rows) -> str:
        values, scale = round_fp8(rows(0, shape[0]), self.dtype)
        stored = np.ascontiguousarray(values.T).view(np.uint8)
        weight = self._stream(f"{name}.fp8", TensorProto.FLOAT8E4M3FN, stored.shape, [stored])
        restored = self.op("DequantizeLinear", weight, self._scalar(f"{name}.scale", scale))
        return str(self.op("MatMul", self._rounded_to_fp8(x, self.ranges[name]), restored))

    def _rounded_to_fp8(self, x: str, largest: float) -> str:
        """x through E4M3 and back, once however many layers read it."""
        if (x, largest) not in self._fp8_inputs:
            scale = self._scalar(f"{x}.scale", fp8_scale(largest, self.dtype))
            zero = self.constant(0, ml_dtypes.float8_e4m3fn)
            rounded = self.op("QuantizeLinear", x, scale, zero)
            self._fp8_inputs[x, largest] = str(self.op("DequantizeLinear", rounded, scale, zero))
        return self._fp8_inputs[x, largest]

    def _scalar(self, name: str, value: np.float32) -> str:
        return self.weight(name, np.asarray(value, np.float32))

    def rms_norm(self, x: str, name: str, scale: NDArray[np.float32], epsilon: float) -> str:
        wide = self.op("Cast", x, to=FLOAT)
        squares = self.op("ReduceMean", self.op("Mul", wide, wide), self.constant([-1], np.int64), keepdims=1)
        root = self.op("Sqrt", self.op("Add", squares, self._exact(epsilon)))
        return str(self.op("Mul", self.native(self.op("Div", wide, root)), self.weight(name, scale)))

    def reshaped(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps a dimension, -1 takes what is left."""
        return str(self.op("Reshape", x, self.constant(list(shape), np.int64)))

    def rotary(self, x: str, cos: str, sin: str, heads: int) -> str:
        """Rotate x [1, n, heads * d] by angles [n, d/2]: the first half of each head pairs with its second half."""
        halves = self.reshaped(x, 0, 0, heads, 2, -1)
        first, second = self.op("Split", halves, outputs=2, axis=3, num_outputs=2)  # [1, n, heads, 1, d/2]
        cosine, sine = (self.op("Unsqueeze", part, self.constant([0, 2, 3], np.int64)) for part in (cos, sin))
        turned = self.op(
            "Concat",
            self.op("Sub", self.op("Mul", first, cosine), self.op("Mul", second, sine)),
            self.op("Add", self.op("Mul", second, cosine), self.op("Mul", first, sine)),
            axis=3,
        )
        return str(self.op("Reshape", turned, self.op("Shape", x)))

    def attention(self, query: str, key_transposed: str, value: str, scale: float, mask: str = "") -> str:
        """softmax(Q K^T * scale + mask) V over the last two axes; leading axes broadcast."""
        scores = self.op("MatMul", self.op("Mul", query, self.constant(scale)), key_transposed)
        scores = self.op("Add", scores, mask) if mask else scores
        return str(self.op("MatMul", self.op("Softmax", scores, axis=-1), value))

    def _multi_head_attention(self, query: str, key: str, value: str, *, num_heads: int, scale: float) -> str:
        query_heads, key_heads, value_heads = (
            self.op("Transpose", self.reshaped(part, 0, 0, num_heads, -1), perm=perm)
            for part, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        attended = self.attention(query_heads, key_heads, value_heads, scale)
        return self.reshaped(str(self.op("Transpose", attended, perm=[0, 2, 1, 3])), 0, 0, -1)

    def _exact(self, value: float) -> str:
        """A float32 constant."""
        name = f"exact_{value!r}"
        if name not in self._exact_names:
            self._exact_names.add(name)
            super().weight(name, np.array([value], np.float32))
        return name
