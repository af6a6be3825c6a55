"""Reads what a roofline needs from an .onnx file, without the onnx package: operators, their whole-number attributes, and
the shapes of stored tensors. Weights beside the file are not opened.

Field numbers are those of onnx.proto3: ModelProto.graph 7; GraphProto.node 1, initializer 5; NodeProto.input 1, op_type 4,
attribute 5; AttributeProto.name 1, i 3; TensorProto.dims 1, name 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.errors import BundleError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Value = int | bytes


@dataclass(frozen=True, slots=True)
class Node:
    """One operator: its type, the names it reads, its whole-number attributes."""

    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """Operators in file order, and stored tensor -> shape."""

    nodes: list[Node]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Product:
    """One product with a stored matrix: [rows, k] x [k, n]; `rows` is known only when the graph runs."""

    weight: str
    k: int
    n: int
    op: str


def read_graph(path: Path) -> Graph:
    """The main graph of a model file.

    Raises:
        BundleError: not an ONNX model.
    """
    try:
        (graph,) = (bytes(v) for number, v in _fields(path.read_bytes()) if number == 7 and isinstance(v, bytes))
        nodes, shapes = [], {}
        for number, value in _fields(graph):
            if number == 1 and isinstance(value, bytes):
                nodes.append(_node(value))
            elif number == 5 and isinstance(value, bytes):
                name, shape = _tensor(value)
                shapes[name] = shape
    except (ValueError, IndexError, OSError) as error:
        raise BundleError(f"an ONNX model in {path}", str(error), "rebuild the bundle") from None
    return Graph(nodes, shapes)


def products(graph: Graph) -> list[Product]:
    """Every product with a stored matrix, whichever operator carries it out."""
    found = []
    for node in graph.nodes:
        stored = [name for name in node.inputs if len(graph.shapes.get(name, ())) >= 2]
        if node.op == "MatMulNBits":
            found.append(Product(node.inputs[1], node.attributes["K"], node.attributes["N"], node.op))
        elif ("MatMul" in node.op or node.op == "Gemm") and stored:
            k, n = graph.shapes[stored[0]][-2:]
            found.append(Product(stored[0], k, n, node.op))
    return found


def _node(data: bytes) -> Node:
    op, inputs, attributes = "", [], {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            inputs.append(value.decode())
        elif number == 4 and isinstance(value, bytes):
            op = value.decode()
        elif number == 5 and isinstance(value, bytes):
            parts = dict(_fields(value))
            name, whole = parts.get(1), parts.get(3)
            if isinstance(name, bytes) and isinstance(whole, int):
                attributes[name.decode()] = whole - (1 << 64) if whole >> 63 else whole
    return Node(op, tuple(inputs), attributes)


def _tensor(data: bytes) -> tuple[str, tuple[int, ...]]:
    name, shape = "", []
    for number, value in _fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 8 and isinstance(value, bytes):
            name = value.decode()
    return name, tuple(shape)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        elif kind == BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field reaches beyond the end of the file")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind} at byte {at}")


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {at}")
