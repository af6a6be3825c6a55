"""The roofline beside the number: bytes and operations that a request needs, and the share of the machine's limits reached.

Counted from the bundle's own graphs: every product with a stored matrix, attention, weights read once per run of a graph,
keys and values read once per step. Norms, activations, rotary tables and resampling are left out, so a share is a lower
bound of what the hardware really did. Only bundles with ONNX graphs can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from egm_edge.benchmark.limits import BUFFER_BYTES, MachineLimits
from egm_edge.benchmark.onnx_graph import Graph, Product, products, read_graph
from egm_edge.bundle import Bundle

GRAPH_NAMES = ("vision", "prefill", "decoder", "head")
MERGED = ("merger", "projector")  # these weights see one row per image token, not per patch
INT8_MARKS = ("Quantize", "Integer", "NBits")  # in the names of the products that multiply 8-bit numbers
CACHE_BYTES = 4  # keys and values are float32


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage needs: bytes to read, operations (a multiply-add is two), and whether they are 8-bit."""

    bytes: float
    operations: float
    int8: bool


@dataclass(frozen=True, slots=True)
class Reached:
    """One stage against its roofline.

    Attributes:
        work: per request; of decode per step.
        bound_ms: no machine with these limits is faster. bound_by: "memory" or "arithmetic".
        measured_ms, best_ms: median and fastest request; of decode per step.
        share, best_share: bound over measured and over best, 0.0-1.0 unless the limits were measured under load.
        typical_share: as `share`, held against the median pass of memory bandwidth instead of the best.
    """

    stage: str
    work: Work
    bound_ms: float
    bound_by: str
    measured_ms: float
    best_ms: float
    share: float
    best_share: float
    typical_share: float


class RequestModel:
    """Counts the work of requests on one bundle.

    Args:
        bundle: with graphs/*.onnx.
        fast: whether the engine keeps the prefill copy of the decoder.
    """

    def __init__(self, bundle: Bundle, *, fast: bool) -> None:
        self._model = bundle.manifest.model
        self._spec = bundle.manifest.pixel_spec
        files = bundle.manifest.files
        self._graphs = {
            n: read_graph(bundle.path(f"graphs/{n}.onnx")) for n in GRAPH_NAMES if f"graphs/{n}.onnx" in files
        }
        self._bytes = {
            n: sum(record.bytes for name, record in files.items() if Path(name).name.startswith(f"{n}.onnx"))
            for n in GRAPH_NAMES
        }
        self._prefill = "prefill" if fast and "prefill" in self._graphs else "decoder"

    @staticmethod
    def counts(bundle: Bundle) -> bool:
        """Whether a bundle's work can be counted."""
        return all(f"graphs/{name}.onnx" in bundle.manifest.files for name in ("vision", "decoder", "head"))

    def vision(self, image_tokens: int) -> Work:
        """The vision tower on one frame."""
        graph = self._graphs["vision"]
        groups, patches = self._patches(image_tokens)
        found = products(graph)
        linear = sum(
            p.k * p.n * (image_tokens if any(m in p.weight for m in MERGED) else groups * patches) for p in found
        )
        attention = sum(
            2 * groups * patches**2 * self._vision_width(graph, node.attributes) for node in _attentions(graph)
        )
        return Work(self._bytes["vision"], 2.0 * (linear + attention), _is_int8(found))

    def prefill(self, tokens: int) -> Work:
        """The prompt, in two runs of the graph: the frame's prefix, then the request; logits of the last token."""
        graph = self._graphs[self._prefill]
        found = products(graph)
        linear = tokens * sum(p.k * p.n for p in found) + sum(p.k * p.n for p in products(self._graphs["head"]))
        attention = self._attention_width(graph) * tokens**2  # causal: half of 2 n² d
        return Work(
            2 * self._bytes[self._prefill] + self._bytes["head"], 2.0 * (linear + attention), _is_int8(found)
        )

    def leaves_the_cache(self) -> bool:
        """Whether a decode step reads so much that a bandwidth probe before it takes nothing from it."""
        return self._bytes["decoder"] + self._bytes["head"] > BUFFER_BYTES

    def decode_step(self, context: float) -> Work:
        """One token at a mean length of the sequence."""
        graph = self._graphs["decoder"]
        both = [*products(graph), *products(self._graphs["head"])]
        cached = 2 * self._model["layers"] * self._model["kv_heads"] * self._model["head_dim"] * CACHE_BYTES * context
        operations = 2.0 * (sum(p.k * p.n for p in both) + 2 * self._attention_width(graph) * context)
        return Work(self._bytes["decoder"] + self._bytes["head"] + cached, operations, _is_int8(both))

    def _patches(self, image_tokens: int) -> tuple[int, int]:
        """Groups that attend among themselves (1 frame, or tiles) and patches in each."""
        if self._spec["rule"] == "tiles":
            per_tile = self._spec["tokens_per_tile"]
            return max(image_tokens // per_tile, 1), 4 * per_tile + 1  # 2x2 pixel shuffle, and the class token
        return 1, image_tokens * self._spec["merge_size"] ** 2

    def _vision_width(self, graph: Graph, attributes: dict[str, int]) -> int:
        head_dim = self._model["vision"]["head_dim"]
        tower = [p for p in products(graph) if not any(m in p.weight for m in MERGED)]
        return attributes.get("num_heads", 1) * head_dim if head_dim else min(p.k for p in tower[1:])

    def _attention_width(self, graph: Graph) -> int:
        """Sum over layers of query heads times head size."""
        return sum(node.attributes.get("num_heads", 0) * self._model["head_dim"] for node in _attentions(graph))


def reached(model: RequestModel, limits: MachineLimits, samples: Sequence[dict[str, Any]]) -> list[Reached]:
    """Vision, prefill and decode of measured requests (on frames of their own) against the limits."""
    fresh = [s for s in samples if s["stages"]["vision_ms"] > 0]
    if not fresh:
        return []
    tokens = {name: float(np.median([s["tokens"][name] for s in fresh])) for name in ("prompt", "image", "completion")}
    found = [
        _stage("vision", model.vision(int(tokens["image"])), limits, [s["stages"]["vision_ms"] for s in fresh]),
        _stage("prefill", model.prefill(int(tokens["prompt"])), limits, [s["stages"]["prefill_ms"] for s in fresh]),
    ]
    steps = [
        (s["stages"]["think_ms"] + s["stages"]["answer_ms"]) / s["tokens"]["decode_steps"]
        for s in fresh
        if s["tokens"].get("decode_steps", 0) > 0
    ]
    if steps:
        context = tokens["prompt"] + tokens["completion"] / 2
        found.append(_stage("decode (per step)", model.decode_step(context), limits, steps))
    return found


def bound_ms(work: Work, limits: MachineLimits) -> tuple[float, str]:
    """The shortest time these limits allow, and which of them it is."""
    rate = limits.int8_gop_s if work.int8 and limits.int8_gop_s else limits.fp32_gflop_s
    memory_ms = work.bytes / limits.bandwidth_gb_s / 1e6
    arithmetic_ms = work.operations / rate / 1e6
    return max(memory_ms, arithmetic_ms), "memory" if memory_ms >= arithmetic_ms else "arithmetic"


def _stage(stage: str, work: Work, limits: MachineLimits, measured: Sequence[float]) -> Reached:
    bound, by = bound_ms(work, limits)
    median, best = float(np.median(measured)), min(measured)
    typical, _ = bound_ms(work, replace(limits, bandwidth_gb_s=limits.bandwidth_median_gb_s))
    shares = [
        part / value if value > 0 else math.inf for part, value in ((bound, median), (bound, best), (typical, median))
    ]
    return Reached(stage, work, bound, by, median, best, *shares)


def _attentions(graph: Graph) -> list[Any]:
    return [node for node in graph.nodes if "Attention" in node.op]


def _is_int8(found: Sequence[Product]) -> bool:
    """Whether most multiply-adds are carried out on 8-bit numbers; MatMulNBits quantizes its activations to 8 bit too."""
    total = sum(p.k * p.n for p in found)
    return 2 * sum(p.k * p.n for p in found if any(mark in p.op for mark in INT8_MARKS)) > total
