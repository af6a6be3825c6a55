"""ONNX graphs with their 16-bit numbers in float32, node for node, written weight by weight; bundles of such graphs.

By themselves they check a graph where ONNX Runtime multiplies no bfloat16: weights keep their rounded values, sums are finer than
a GPU's. `unrounded` takes the rounding away too. Memory is a few times the largest matrix.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from build_engine.manifest import locked
from egm_edge.bundle import Bundle

NARROW = (TensorProto.BFLOAT16, TensorProto.FLOAT16)
NARROW_NAMES = ("float16", "bfloat16")
PAGE = 4096
FOLDER_PREFIX = "egm-float32-"
INLINE_BYTES = 1024


class Float32Graph:
    """One graph on its way from `source` to `target`."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target
        self.model = onnx.load(str(source), load_external_data=False)
        self.stored = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def write(self) -> None:
        """Write the graph; large weights go to a file beside it."""
        graph = self.model.graph
        with self.target.with_name(self.target.name + ".data").open("wb") as data:
            made = [tensor for node in graph.node if (tensor := self.rewrite(node, data)) is not None]
            for node in graph.node:
                _widen_attributes(node)
            used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
            kept = [stored(data, self.target, name, self.plain(name)) for name in self.stored if name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *made])
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in NARROW:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        self.target.write_bytes(self.model.SerializeToString())

    def rewrite(self, node: NodeProto, data: BinaryIO) -> TensorProto | None:
        """Change a node; the weight that it needs then."""
        return None

    def plain(self, name: str) -> NDArray[Any]:
        """A weight as it is written."""
        array = self.array(name)
        return array.astype(np.float32) if array.dtype.name in NARROW_NAMES else array

    def array(self, name: str) -> NDArray[Any]:
        """A weight as it is stored."""
        tensor = TensorProto()
        tensor.CopyFrom(self.stored[name])
        if uses_external_data(tensor):
            load_external_data_for_tensor(tensor, str(self.source.parent))
        return np.asarray(numpy_helper.to_array(tensor))


@contextmanager
def linked_folder(bundle: Bundle, write_graph: Callable[[str, Path, Path], None]) -> Iterator[Path]:
    """A temporary folder with the bundle's files: graphs as `write_graph(name, source, target)` writes them, others as links.
    What killed runs left of such folders, many gigabytes, is removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with suppress(OSError), locked(left, wait=False):
            if any(left.iterdir()):  # an empty one may be about to be locked
                shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as held:
        root = Path(held.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX)))
        with suppress(OSError):  # a file system without locks
            held.enter_context(locked(root))
        for name in (name for name in bundle.manifest.files if name not in bundle.left_out):
            source, target = bundle.root / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".onnx":
                write_graph(name, source, target)
            elif not target.name.endswith(".onnx.data"):
                os.symlink(source.resolve(), target)
        yield root


@contextmanager
def in_float32(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle with its graphs in float32."""
    with linked_folder(bundle, lambda name, source, target: Float32Graph(source, target).write()) as root:
        yield Bundle(root, bundle.manifest)


def stored(data: BinaryIO, path: Path, name: str, array: NDArray[Any]) -> TensorProto:
    """A tensor of the twin; large ones go to the data file beside `path`."""
    array = np.ascontiguousarray(array)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    if array.nbytes <= INLINE_BYTES:
        return numpy_helper.from_array(array, name)
    data.seek(-(-data.tell() // PAGE) * PAGE)
    start = data.tell()
    data.write(array.reshape(-1).view(np.uint8).data)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", path.name + ".data"), ("offset", start), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _widen_attributes(node: NodeProto) -> None:
    """Casts to, and constants in, 16 bits become float32."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in NARROW:
            attribute.i = TensorProto.FLOAT
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in NARROW:
            wide = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
