"""Mistakes as somebody might make them in this project's own code, one function each: it monkeypatches, and whatever is built
or run afterwards has the mistake. `stage` is what the gate must call it, at build and in `egm verify`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from build_engine.exporters import graph, internvl3_vision, qwen3_vl_vision, text_decoder
from build_engine.exporters.vision_tower import TowerWriter
from egm_edge import pixels
from egm_edge.backends.onnx_runtime import backend as onnx_backend
from egm_edge.backends.onnx_runtime import kv_cache, positions
from egm_edge.backends.onnx_runtime.kv_batch import KvBatch
from egm_edge.backends.onnx_runtime.kv_cache import KvCache
from egm_edge.backends.prefix_backend import PrefixBackend
from egm_edge.families.internvl3 import InternVL3
from egm_edge.families.qwen3_vl import Qwen3VL

QWEN, INTERN, NANO = "qwen3_vl", "internvl3", "egm-nano"
ALL, QWENS = (QWEN, INTERN, NANO), (QWEN, NANO)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Plant:
    """One mistake.

    Attributes:
        families: where it can be made. stage: what must be named.
        precisions: where it can be made; the CPU's two quantized ones.
        when_built: the mistake is in the exporter, so that a bundle built with it keeps it.
    """

    name: str
    stage: str
    apply: Callable[[Patch], None]
    families: tuple[str, ...] = ALL
    precisions: tuple[str, ...] = ("int8", "int4")


def wrap(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace `owner.name` by `change(original, *args, **keywords)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **keywords: change(original, *args, **keywords))


def cache_written_one_early(patch: Patch) -> None:
    def early(original: Any, self: KvCache, session: Any, new_tokens: int) -> Any:
        if new_tokens > 1:
            return original(self, session, new_tokens)
        self.length -= 1
        try:
            return original(self, session, new_tokens)
        finally:
            self.length += 1

    wrap(patch, KvCache, "binding", early)


def angle_one_step_behind(patch: Patch) -> None:
    def behind(original: Any, self: KvCache, session: Any, new_tokens: int) -> Any:
        binding = original(self, session, new_tokens)
        for name, table in (("cos", self._cos), ("sin", self._sin)):
            late = table.copy()
            if self.length and new_tokens == 1:
                late[self.length :] = table[self.length - 1 : -1]
            binding.bind_cpu_input(name, late)
        return binding

    wrap(patch, KvCache, "binding", behind)


def sampled(patch: Patch, temperature: float = 0.9) -> None:
    from egm_edge.decoding import sampler

    def hot(original: Any, self: Any, *values: Any, **named: Any) -> None:
        original(self, *values, **named)
        self.temperature, self._rng = temperature, np.random.default_rng(3)

    wrap(patch, sampler.Sampler, "__init__", hot)


def axes_swapped(patch: Patch) -> None:
    wrap(patch, kv_cache, "text_table", lambda original, config, places: original(config, places[[0, 2, 1]]))


def q_norm_skipped(patch: Patch) -> None:
    def skipped(original: Any, self: Any, x: str, name: str, heads: int) -> str:
        return x if "layers.1.self_attn.q_norm" in name else str(original(self, x, name, heads))

    wrap(patch, text_decoder._LayerWriter, "_head_norm", skipped)


def vision_scale(patch: Patch) -> None:
    def scaled(original: Any, self: Any, query: str, key: str, value: str, heads: int, width: int) -> str:
        louder = self.graph.op("Mul", query, self.graph.constant(1.1))
        return str(original(self, louder, key, value, heads, width))

    wrap(patch, TowerWriter, "attend", scaled)


def other_corner_rule(patch: Patch) -> None:
    def half_pixels(_: Any, count: int, side: int) -> Any:
        places = np.clip((np.arange(count, dtype=np.float32) + 0.5) * side / count - 0.5, 0, side - 1).astype(
            np.float32
        )
        low = places.astype(np.int64)
        return low, np.minimum(low + 1, side - 1), places - low

    wrap(patch, positions, "grid_taps", half_pixels)


def deepstack_one_late(patch: Patch) -> None:
    def late(original: Any, self: Any, kind: str, *inputs: str, **options: Any) -> Any:
        pending = getattr(self, "_late", None)
        if kind == "Add" and len(inputs) == 2 and inputs[1].startswith("deepstack_"):
            object.__setattr__(self, "_late", inputs[1])
            return original(self, "Add", inputs[0], pending, **options) if pending else inputs[0]
        return original(self, kind, *inputs, **options)

    def one_more(original: Any, self: Any, x: str, i: int) -> str:
        update = original(self, x, i)
        pending, self.graph._late = getattr(self.graph, "_late", None), None
        if pending and i == int(pending[-1]) + 1:
            return str(self.graph.op("Add", update, self.graph.op("Identity", pending)))
        self.graph._late = pending
        return str(update)

    wrap(patch, graph.GraphWriter, "op", late)
    wrap(patch, text_decoder._LayerWriter, "feed_forward", one_more)


def other_gelu(patch: Patch) -> None:
    for module in (qwen3_vl_vision, internvl3_vision):
        wrap(patch, module, "gelu_kind", lambda original, name: {"none": "tanh", "tanh": "none"}[original(name)])


def one_scale_doubled(patch: Patch) -> None:
    done: list[bool] = []

    def doubled(original: Any, *args: Any) -> Any:
        found = original(*args)
        if not done:
            done.append(True)
            found.scales[3, 0] *= 2
        return found

    wrap(patch, graph, "quantize_blocks", doubled)


def half_up(patch: Patch) -> None:
    patch.setattr("egm_edge.pixels.round", lambda value: math.floor(value + 0.5), raising=False)


def far_positions_wrong(patch: Patch) -> None:
    def wrong(original: Any, self: Any, ids: Any, token: int, pixels: Any) -> np.ndarray:
        places = original(self, ids, token, pixels)
        if len(pixels.patches) > 1300:
            places = places.copy()
            places[2, 330:] += 1
        return np.asarray(places)

    wrap(patch, Qwen3VL, "positions", wrong)


def growth_loses_content(patch: Patch) -> None:
    def forgetful(original: Any, self: KvCache, capacity: int) -> KvCache:
        larger = original(self, capacity)
        for buffer in larger.buffers.values():
            buffer[:, :, 40:80] = 0
        return larger  # type: ignore[no-any-return]

    wrap(patch, KvCache, "grown", forgetful)


def amodal_like_modal(patch: Patch) -> None:
    for family in (Qwen3VL, InternVL3):
        patch.setattr(family, "amodal", family.modal)


def period_added(patch: Patch) -> None:
    for family in (Qwen3VL, InternVL3):
        patch.setattr(family, "modal", family.modal + ".")


def axes_of_boxes_swapped(patch: Patch) -> None:
    def swapped(original: Any, *values: Any, **named: Any) -> Any:
        box = original(*values, **named)
        return (box[1], box[0], box[3], box[2]) if isinstance(box, tuple) else box

    wrap(patch, __import__("egm_edge.parsing", fromlist=["_"]), "_box_or_fault", swapped)


def dropped_branch_kept(patch: Patch) -> None:
    def forgetful(_: Any, self: KvBatch, row: int) -> None:
        self.lengths = self.lengths[:-1]

    wrap(patch, KvBatch, "drop", forgetful)


def prefix_kept_too_long(patch: Patch) -> None:
    """A frame that comes back after another one finds the other's keys."""

    def stale(original: Any, self: Any, frame: Any) -> Any:
        seen = self.__dict__.setdefault("_seen_frames", set())
        if id(frame) in seen and self._resident is not frame:
            self._resident = frame
            return None
        seen.add(id(frame))
        return original(self, frame)

    wrap(patch, onnx_backend.OnnxBackend, "_make_resident", stale)


def inputs_of_the_turned_grid(patch: Patch) -> None:
    """Tables are remembered by their size, and a picture as high as another is wide gets that one's."""

    def by_sides(original: Any, self: Any, grid_hw: tuple[int, int]) -> Any:
        known = self.__dict__.setdefault("_by_sides", {})
        sides = tuple(sorted(grid_hw))
        if sides not in known:
            known[sides] = original(self, grid_hw)
        return known[sides]

    wrap(patch, PrefixBackend, "_inputs_of_grid", by_sides)


def last_logits_one_early(patch: Patch) -> None:
    def early(original: Any, self: Any, hidden: np.ndarray) -> np.ndarray:
        if len(hidden) > 1 or self._fed.shape[0] < 2:
            return np.asarray(original(self, hidden))
        return np.asarray(original(self, self._fed[-2:-1]))

    def noted(original: Any, self: Any, *values: Any, **named: Any) -> Any:
        self._fed = original(self, *values, **named)
        return self._fed

    wrap(patch, onnx_backend.OnnxBackend, "decode", noted)
    wrap(patch, onnx_backend.OnnxBackend, "logits", early)


def rows_at_the_longest(patch: Patch) -> None:
    def longest(original: Any, self: KvBatch, session: Any, rows: range, new_tokens: int) -> Any:
        kept = self.lengths
        self.lengths = np.full_like(kept, kept.max())
        try:
            return original(self, session, rows, new_tokens)
        finally:
            self.lengths = kept

    wrap(patch, KvBatch, "binding", longest)


def rejected_draft_of_a_branch_kept(patch: Patch) -> None:
    patch.setattr(onnx_backend.OnnxBranch, "truncate", lambda self, length: None)


def other_filter_for_cameras(patch: Patch) -> None:
    def smooth(original: Any, image: np.ndarray, width: int, height: int) -> np.ndarray:
        if image.shape[0] * image.shape[1] < 1_000_000:
            return np.asarray(original(image, width, height))
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

    wrap(patch, pixels, "resize_bicubic", smooth)


def first_of_several_boxes(patch: Patch) -> None:
    patch.setattr("egm_edge.parsing.choose", lambda boxes, labels, expression: 0)


def amodal_box_clipped(patch: Patch) -> None:
    patch.setattr("egm_edge.parsing.AMODAL_MARGIN", 0.0)


PLANTS = (
    Plant("cache written one place early at decode steps", "decode logits", cache_written_one_early),
    Plant("rotary angle one step behind at decode", "decode logits", angle_one_step_behind),
    Plant("sampling at a temperature", "text", sampled),
    Plant("M-RoPE axes swapped in the table", "prefill logits", axes_swapped, QWENS),
    Plant("one layer's q_norm skipped", "prefill logits", q_norm_skipped, QWENS),
    Plant("vision attention scale", "vision embedding", vision_scale),
    Plant("position grid with the other corner rule", "vision embedding", other_corner_rule, QWENS),
    Plant("deep-stack one layer late", "deep-stack", deepstack_one_late, QWENS),
    Plant("tanh and erf GELU exchanged in the vision tower", "vision embedding", other_gelu),
    Plant("scale of one block doubled", "prefill logits", one_scale_doubled),
    Plant("half rounded up in the resize", "pixels", half_up, QWENS),
    Plant("positions wrong beyond 1,300 patches", "prefill logits", far_positions_wrong, (QWEN,)),
    Plant("cache growth loses content", "decode logits", growth_loses_content),
    Plant("amodal sentence equal to the modal one", "prompt", amodal_like_modal),
    Plant("a period behind the modal sentence", "prompt", period_added),
    Plant("a parser that swaps x and y", "text", axes_of_boxes_swapped),
    Plant("a dropped branch stays", "decode logits", dropped_branch_kept),
    Plant("a displaced frame finds another's keys", "prefill logits", prefix_kept_too_long),
    Plant("a turned picture gets the other's positions", "vision embedding", inputs_of_the_turned_grid, QWENS),
    Plant("a request's last logits one token early", "prefill logits", last_logits_one_early),
    Plant("branches of different lengths written at one place", "decode logits", rows_at_the_longest),
    Plant("a branch's rejected draft stays", "decode logits", rejected_draft_of_a_branch_kept),
    Plant("another filter for pictures of a megapixel", "pixels", other_filter_for_cameras),
    Plant("the first of several boxes", "text", first_of_several_boxes),
    Plant("an amodal box clipped to the picture", "text", amodal_box_clipped),
)
