"""A bundle with its rounding taken away: the same graphs, node for node, every rounded weight that is the rounding of the
checkpoint's replaced by the checkpoint's own. What such a twin gets wrong is wiring, whatever the precision of the bundle.

A weight that is *not* the rounding of the checkpoint's is left as the bundle has it, so that it shows in the twin too, and
is told. Weights are streamed: memory is a few times the largest matrix. 16-bit graphs are computed in float32.
Notation: N output features, K inputs, B blocks of `size` inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from build_engine.checkpoint import Checkpoint
from build_engine.parity.float32_graphs import NARROW_NAMES, Float32Graph, linked_folder, stored
from egm_edge.backends.onnx_runtime.sessions import PREFILL
from egm_edge.backends.prefix_backend import EMBEDDING
from egm_edge.bundle import SHA256_HEX, Bundle, FileRecord

EMBEDDING_WEIGHT = "text.embed_tokens.weight"
SLACK = 1.03  # scales are themselves stored in 16 bits where the runtime wants it
LEAST_STEP = 0.8  # of the natural one: a search may shrink a block's scale by 15 %
PATCH_KERNELS = ("vision.patch_embed.proj", "vision.embeddings.patch_embeddings.projection")  # "vision.patch_embed" in a graph
FP8_HALF_STEP = 2.0**-4  # E4M3: three bits of mantissa
UNIT_STEPS = 127  # of 8 bits, either side of zero
MOST_SCALE_NODES = 16


@dataclass(slots=True)
class Twin:
    """The bundle without rounding, and what of the rounding is wrong."""

    bundle: Bundle
    problems: list[str]
    exact: bool  # every weight is the checkpoint's own


@contextmanager
def unrounded(bundle: Bundle, checkpoint: Checkpoint, *, one_decoder: bool = False) -> Iterator[Twin]:
    """The twin of `bundle`, in a temporary folder.

    Args:
        one_decoder: leave out the second copy that only prefills once its rounding was checked, for half the disk and memory.
    """
    problems: list[str] = []
    narrow: list[str] = []

    def write_graph(name: str, source: Path, target: Path) -> None:
        unrounder = _Unrounder(source, target, checkpoint)
        unrounder.write()
        problems.extend(f"{source.name}: {problem}" for problem in unrounder.problems)
        narrow.extend([name] if unrounder.narrow else [])
        if one_decoder and name == PREFILL:
            target.unlink()
            target.with_name(target.name + ".data").unlink()

    with linked_folder(bundle, write_graph) as root:
        model = dict(bundle.manifest.model)
        has_table = (root / EMBEDDING).exists()  # a bundle of the PyTorch engine has none
        if has_table and model.get("embedding_dtype") == "float16" and checkpoint.dtype(EMBEDDING_WEIGHT) == "F32":
            (root / EMBEDDING).unlink()
            table = np.load(bundle.path(EMBEDDING)).astype(np.float32)
            truth = checkpoint.float32(EMBEDDING_WEIGHT)
            if table.shape == truth.shape:
                table = np.where(np.abs(table - truth) <= np.abs(truth) * 2.0**-11 + 2.0**-25, truth, table)
            np.save(root / EMBEDDING, table)
            model["embedding_dtype"] = "float32"
        names = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        files = {name: FileRecord("0" * SHA256_HEX, (root / name).stat().st_size) for name in names}
        yield Twin(Bundle(root, replace(bundle.manifest, precision="fp32", model=model, files=files)), problems, exact=not narrow)


class _Unrounder(Float32Graph):
    """One graph on its way to its twin.

    Attributes:
        problems: what is wrong with the rounding of this graph. narrow: a 16-bit weight was kept as it is.
    """

    def __init__(self, source: Path, target: Path, checkpoint: Checkpoint) -> None:
        super().__init__(source, target)
        self.checkpoint = checkpoint
        self.problems: list[str] = []
        self.narrow = False
        self.makers = {name: node for node in self.model.graph.node for name in node.output}

    def rewrite(self, node: NodeProto, data: BinaryIO) -> TensorProto | None:
        """Turn a node that rounds into one that does not; the weight that it needs."""
        if node.op_type == "MatMulNBits":
            name = node.input[1].rpartition(".int")[0]
            made = self._matrix(node, data, self._blocks(node, name).T)
            _become(node, "MatMul", [node.input[0], made.name])
        elif node.op_type == "MatMulIntegerToFloat":
            name = node.input[1].removesuffix(".w8")
            made = self._matrix(node, data, self._channels(node, name).T)
            _become(node, "MatMul", [node.input[0], made.name])
        elif node.op_type == "DequantizeLinear" and node.input[0] in self.stored:
            name, _, kind = node.input[0].rpartition(".")
            rounded = self._fp8(node, name) if kind == "fp8" else self._standard_int4(node, name)
            made = self._matrix(node, data, rounded.T)
            _become(node, "Identity", [made.name])
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            self._check_activation_rounding(node)
            _become(node, "Identity", [node.input[0]])
            return None
        else:
            return None
        return made

    def _matrix(self, node: NodeProto, data: BinaryIO, matrix: NDArray[np.float32]) -> TensorProto:
        return stored(data, self.target, f"{node.output[0]}.unrounded", matrix)

    def _blocks(self, node: NodeProto, name: str) -> NDArray[np.float32]:
        """A MatMulNBits weight, [N, K]."""
        known = {attribute.name: attribute.i for attribute in node.attribute}
        bits, size, rows, inputs = (known[key] for key in ("bits", "block_size", "N", "K"))
        packed = self.array(node.input[1]).reshape(rows, -1)
        levels = np.stack((packed & 0xF, packed >> 4), -1).reshape(rows, -1) if bits == 4 else packed
        scales = self.array(node.input[2]).astype(np.float32).reshape(rows, -1)
        zero = 1 << (bits - 1)
        values = (levels.astype(np.float32) - zero).reshape(rows, -1, size) * scales[..., None]
        return self._restored(name, values, scales, zero)[:, :inputs]

    def _channels(self, node: NodeProto, name: str) -> NDArray[np.float32]:
        """A MatMulIntegerToFloat weight, [N, K], times the scale of its input (which must be one)."""
        weight, input_scale, scales, zero, weight_zero = (self.array(node.input[i]) for i in range(1, 6))
        if input_scale.item() != 1.0 or zero.item() != 128 or np.any(weight_zero):
            self.problems.append(f"{name} reads its input rounded by {input_scale.item():g} round {zero.item()}")
        values = (weight.astype(np.float32).T * scales.astype(np.float32)[:, None])[:, None]
        return self._restored(name, values, scales.astype(np.float32)[:, None], 128) * np.float32(input_scale.item())

    def _standard_int4(self, node: NodeProto, name: str) -> NDArray[np.float32]:
        """A DequantizeLinear over INT4 blocks [K, N], transposed."""
        levels = self.array(node.input[0]).astype(np.float32).T  # [N, K]
        scales = self.array(node.input[1]).astype(np.float32).T  # [N, B]
        values = levels.reshape(*scales.shape, -1) * scales[..., None]
        return self._restored(name, values, scales, 8)

    def _fp8(self, node: NodeProto, name: str) -> NDArray[np.float32]:
        scale = float(self.array(node.input[1]).item())
        values = self.array(node.input[0]).astype(np.float32).T * np.float32(scale)
        truth = self._truth(name, values.shape)
        if truth is None:
            return values
        right = (
            np.abs(np.clip(truth, -448 * scale, 448 * scale) - values)
            <= np.abs(truth) * FP8_HALF_STEP + scale * 2.0**-9
        )
        natural = float(np.abs(truth).max()) / 448
        if not right.all() or not LEAST_STEP * natural <= scale <= SLACK * natural:
            self.problems.append(f"{name} is not the checkpoint's in FP8")
        return np.where(right, truth, values)

    def _restored(
        self, name: str, values: NDArray[np.float32], scales: NDArray[np.float32], zero: int
    ) -> NDArray[np.float32]:
        """The checkpoint's weight where `values` [N, B, size] is its rounding, block by block, else `values`; [N, B * size]."""
        rows, blocks, size = values.shape
        truth = self._truth(name, (rows, blocks * size))
        if truth is None:
            return values.reshape(rows, -1)
        grouped = truth.reshape(values.shape)
        step, largest = np.abs(scales), np.abs(grouped).max(-1)
        ends = np.stack((-zero * scales, (zero - 1) * scales))
        nearest = np.clip(grouped, ends.min(0)[..., None], ends.max(0)[..., None])
        right = (np.abs(nearest - values) <= (step * 0.501)[..., None] + 1e-6 * largest[..., None]).all(-1)
        right &= (step <= SLACK * largest / (zero - 1) + 1e-9) & (step >= LEAST_STEP * largest / zero)
        if not right.all():
            row, block = (int(i) for i in np.argwhere(~right)[0])
            more = int((~right).sum()) - 1
            place = f"block {block} of row {row}" + (f" and {more} more" if more else "")
            self.problems.append(f"{name} is not the rounding of the checkpoint's in {place}")
        return np.where(right[..., None], grouped, values).reshape(rows, -1)

    def _truth(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """The checkpoint's matrix [N, K], filled up with zeros to `shape`; None where it has none like it."""
        checkpoint = self.checkpoint
        head = "head.weight" if "head.weight" in checkpoint else EMBEDDING_WEIGHT
        names = [head] if name == "head" else [f"{part}.weight" for part in name.split("+")]
        if any(part not in checkpoint for part in names):
            self.problems.append(f"{name} is no weight of the checkpoint")
            return None
        truth = np.concatenate([checkpoint.float32(part) for part in names])
        truth = truth.reshape(len(truth), -1)
        if len(truth) != shape[0] or not 0 <= shape[1] - truth.shape[1] < 256:
            self.problems.append(f"{name} is {list(shape)}, in the checkpoint {list(truth.shape)}")
            return None
        return np.pad(truth, ((0, 0), (0, shape[1] - truth.shape[1])))

    def _check_activation_rounding(self, node: NodeProto) -> None:
        """Rows are rounded to steps of one round 128 after they were brought to that range (FP8: round zero)."""
        if node.op_type != "QuantizeLinear" or len(node.input) < 3 or node.input[2] not in self.stored:
            return
        scale, zero = (float(self.array(name).astype(np.float32).item()) for name in node.input[1:3])
        if zero and (scale, zero) != (1.0, 128.0):
            self.problems.append(f"{node.output[0]} is rounded to steps of {scale:g} round {zero:g}")
        elif zero:
            self.problems += self._range_problems(node)

    def _range_problems(self, node: NodeProto) -> list[str]:
        """What the nodes between an activation and its rounding make of rows of several sizes; each is to fill 127 steps."""
        divide = self.makers.get(node.input[0])
        if divide is None or divide.op_type != "Div":
            return [f"{node.output[0]} is rounded without the scale of its row"]
        nodes, wanted = [divide], [divide.input[1]]
        while wanted:
            name = wanted.pop()
            maker = self.makers.get(name)
            if name == divide.input[0] or name in self.stored or maker in nodes:
                continue
            if maker is None or maker.domain or len(nodes) > MOST_SCALE_NODES:
                return [f"{node.output[0]} is rounded by a scale that is not its row's"]
            nodes.append(maker)
            wanted += maker.input
        constants = [self.stored[name] for each in nodes for name in each.input if name in self.stored]
        rows = np.outer([1e-4, 1.0, 300.0], np.linspace(-1, 0.9, 16)).astype(np.float32)
        largest = np.abs(_value_of(nodes[::-1], constants, divide.input[0], divide.output[0], rows)).max(-1)
        if np.abs(largest - UNIT_STEPS).max() < 0.5:
            return []
        return [f"{node.output[0]} is rounded to {largest.min():.3g} to {largest.max():.3g} steps of {UNIT_STEPS}"]

    def plain(self, name: str) -> NDArray[Any]:
        """A weight that is not quantized; of 16 bits, the checkpoint's own where that is what it was rounded from."""
        narrow = self.array(name)
        if narrow.dtype.name not in NARROW_NAMES:
            return narrow
        values, share = narrow.astype(np.float32), 2.0 ** (-10 if narrow.dtype.name == "float16" else -8)
        kernels = (name.replace("vision.patch_embed", kernel) for kernel in PATCH_KERNELS)
        own = (name, f"{name}.weight", name.replace(".scale", ".weight"))
        for known in (*own, *kernels, *(f"{kernel}.weight" for kernel in PATCH_KERNELS)):
            if known not in self.checkpoint or ("patch_embed" in known) != ("patch_embed" in name):
                continue
            truth = self.checkpoint.float32(known)
            truth = truth.sum(2) if truth.ndim == 5 else truth  # both temporal halves see the same still picture
            truth = truth.reshape(len(truth), -1) if truth.ndim > 3 else truth
            truth = truth.T if truth.shape != values.shape else truth
            if truth.shape == values.shape and (np.abs(truth - values) <= np.abs(truth) * share + 1e-7).all():
                return truth
        self.narrow = True
        return values


def _value_of(
    nodes: Sequence[NodeProto], constants: Sequence[TensorProto], fed: str, wanted: str, values: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What a few nodes make of `values`."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (fed, wanted)]
    unique = {tensor.name: tensor for tensor in constants}.values()
    made = helper.make_model(helper.make_graph(nodes, "part", ends[:1], ends[1:], unique))
    found: list[NDArray[np.float32]] = ReferenceEvaluator(made).run(None, {fed: values})
    return found[0]


def _become(node: NodeProto, kind: str, inputs: list[str]) -> None:
    """Make another operator of a node; its output keeps its name."""
    node.op_type, node.domain = kind, ""
    node.input[:] = inputs
    del node.attribute[:]
