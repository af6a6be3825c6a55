"""More mistakes as in `planted`: in towers, roundings, pictures, sentences and replies, one family each where others are alike."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from build_engine import quantize
from build_engine.checkpoint import Checkpoint
from build_engine.exporters import graph, internvl3_vision, text_decoder
from build_engine.exporters.vision_tower import TowerWriter
from egm_edge import boxes, images, loaded_model, pipeline, pixels
from egm_edge.decoding import generate
from egm_edge.decoding.constrained import fsm
from egm_edge.families import chat_template
from tests.build_engine.parity.planted import ALL, INTERN, NANO, QWEN, Plant, sampled, wrap

Patch = pytest.MonkeyPatch


def k_norm_of_the_last_layer_skipped(patch: Patch) -> None:
    def skipped(original: Any, self: Any, x: str, name: str, heads: int) -> str:
        last = f"layers.{self.shape.layers - 1}.self_attn.k_norm"
        return x if last in name else str(original(self, x, name, heads))

    wrap(patch, text_decoder._LayerWriter, "_head_norm", skipped)


def key_bias_dropped(patch: Patch) -> None:
    def dropped(original: Any, self: Any, name: str) -> np.ndarray:
        values = np.asarray(original(self, name))
        return values * 0 if name == "text.layers.1.self_attn.k_proj.bias" else values

    wrap(patch, Checkpoint, "float32", dropped)


def layer_scale_missing(patch: Patch) -> None:
    def unscaled(original: Any, tower: Any, x: str, name: str) -> str:
        return x if name.endswith("1.lambda_2") else str(original(tower, x, name))

    wrap(patch, internvl3_vision, "_scaled", unscaled)


def pixel_shuffle_transposed(patch: Patch) -> None:
    def transposed(original: Any, self: Any, kind: str, *inputs: str, **options: Any) -> Any:
        if options.get("perm") == [0, 1, 3, 2, 4, 5]:
            options["perm"] = [0, 1, 3, 4, 2, 5]
        return original(self, kind, *inputs, **options)

    wrap(patch, graph.GraphWriter, "op", transposed)


def tiles_see_each_other(patch: Patch) -> None:
    def together(original: Any, self: Any, query: str, key: str, value: str, heads: int, width: int) -> str:
        one = self.graph.constant([1, -1, width], np.int64)
        joined = (self.graph.op("Reshape", part, one) for part in (query, key, value))
        return str(self.graph.op("Reshape", original(self, *joined, heads, width), self.graph.op("Shape", query)))

    wrap(patch, TowerWriter, "attend", together)


def nibbles_swapped(patch: Patch) -> None:
    def swapped(original: Any, values: np.ndarray) -> np.ndarray:
        return np.asarray(original(values.reshape(*values.shape[:-1], -1, 2)[..., ::-1].reshape(values.shape)))

    wrap(patch, quantize, "pack_nibbles", swapped)


def _rows_rounded(patch: Patch, steps: float, axes: tuple[list[int], ...]) -> None:
    def rounded(self: Any, x: str) -> tuple[str, str]:
        along = [self.constant(axis, np.int64) for axis in axes]
        largest = self.op("ReduceMax", self.op("Abs", x), *along, keepdims=1)
        scale = self.op("Mul", self.op("Max", largest, self.constant([1e-12])), self.constant([1 / steps]))
        unit = self.op("Div", x, scale)
        return self.op("QuantizeLinear", unit, self.constant(1.0), self.constant(128, np.uint8)), scale

    patch.setattr(graph.GraphWriter, "_rounded_rows", rounded)


def activations_in_60_steps(patch: Patch) -> None:
    _rows_rounded(patch, 60, ([-1],))


def activations_cut_off(patch: Patch) -> None:
    _rows_rounded(patch, 130, ([-1],))


def activations_rounded_by_the_largest_row(patch: Patch) -> None:
    _rows_rounded(patch, 127, ())


def exif_turn_ignored(patch: Patch) -> None:
    patch.setattr(images, "_UPRIGHT", {})


def tiles_column_by_column(patch: Patch) -> None:
    def by_columns(original: Any, canvas: np.ndarray, size: int, thumbnail: np.ndarray | None) -> np.ndarray:
        tiles = np.asarray(original(canvas, size, thumbnail))
        rows, columns = canvas.shape[0] // size, canvas.shape[1] // size
        grid = tiles[: rows * columns].reshape(rows, columns, *tiles.shape[1:])
        tiles[: rows * columns] = grid.swapaxes(0, 1).reshape(-1, *tiles.shape[1:])
        return tiles

    wrap(patch, pixels, "_cut_tiles", by_columns)


def thumbnail_left_out(patch: Patch) -> None:
    wrap(patch, pixels, "_cut_tiles", lambda original, canvas, size, thumbnail: original(canvas, size, None))


def expression_in_small_letters(patch: Patch) -> None:
    def small(original: Any, self: Any, expression: str, *others: Any) -> Any:
        return original(self, expression.lower(), *others)

    wrap(patch, loaded_model.LoadedModel, "request_ids", small)


def system_prompt_added(patch: Patch) -> None:
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    wrap(patch, chat_template, "_render", lambda original, template, root: opening + original(template, root))


def first_end_token_unheeded(patch: Patch) -> None:
    def unheeded(original: Any, self: Any) -> None:
        original(self)
        self.stop_ids = frozenset(sorted(self.stop_ids)[1:])

    wrap(patch, loaded_model.LoadedModel, "__post_init__", unheeded)


def last_token_lost(patch: Patch) -> None:
    def shorter(original: Any, self: Any, *values: Any) -> Any:
        whole = original(self, *values)
        ids = whole.token_ids[:-1]
        texts = {name: self.tokenizer.decode(list(ids), skip_special_tokens=name == "text") for name in ("text", "marked_text")}
        return dataclasses.replace(whole, token_ids=ids, **texts)

    wrap(patch, generate.Decoder, "result", shorter)


def thousandths_of_999(patch: Patch) -> None:
    patch.setattr(boxes, "NORM1000_MAX", 999.0)


def jpeg_channels_swapped(patch: Patch) -> None:
    def swapped(original: Any, image: Any, reduced_to: Any) -> Any:
        found = original(image, reduced_to)
        return dataclasses.replace(found, image_rgb=found.image_rgb[..., ::-1].copy()) if image.format == "JPEG" else found

    wrap(patch, images, "_decoded", swapped)


def arrays_of_bgr_taken_as_rgb(patch: Patch) -> None:
    wrap(patch, images, "_from_array", lambda original, array, color: original(array, "rgb"))


def large_picture_not_turned(patch: Patch) -> None:
    wrap(patch, images, "upright_rgb", lambda original, picture, orientation: original(picture, 1))


def _expression_changed(patch: Patch, change: Callable[[str], str]) -> None:
    def changed(original: Any, self: Any, expression: str, *others: Any) -> Any:
        return original(self, change(expression), *others)

    wrap(patch, loaded_model.LoadedModel, "request_ids", changed)


def replies_cut_at_128_tokens(patch: Patch) -> None:
    def capped(original: Any, *values: Any, **options: Any) -> Any:
        limit, why = original(*values, **options)
        return min(limit, 128), why

    wrap(patch, pipeline, "_limit", capped)


def forced_numbers_below_1000(patch: Patch) -> None:
    patch.setattr(fsm, "NUMBER_MAX", 999)


MORE_PLANTS = (
    Plant("the last layer's k_norm skipped", "prefill logits", k_norm_of_the_last_layer_skipped, (QWEN,)),
    Plant("a key bias dropped", "prefill logits", key_bias_dropped, (INTERN,)),
    Plant("a layer scale left out", "vision embedding", layer_scale_missing, (INTERN,)),
    Plant("pixel shuffle transposed", "vision embedding", pixel_shuffle_transposed, (INTERN,)),
    Plant("tiles attend to each other", "vision embedding", tiles_see_each_other, (INTERN,)),
    Plant("4-bit pairs swapped", "prefill logits", nibbles_swapped, precisions=("int4",)),
    Plant("activations rounded in 60 steps", "rounding", activations_in_60_steps),
    Plant("activations cut off", "rounding", activations_cut_off, (NANO,)),
    Plant("activations rounded by the largest row", "rounding", activations_rounded_by_the_largest_row, (NANO,)),
    Plant("a turn by EXIF ignored", "pixels", exif_turn_ignored, (NANO, INTERN)),
    Plant("tiles column by column", "pixels", tiles_column_by_column, (INTERN,)),
    Plant("the thumbnail left out", "pixels", thumbnail_left_out, (INTERN,)),
    Plant("expressions in small letters", "prompt", expression_in_small_letters, (NANO, INTERN)),
    Plant("a system prompt", "prompt", system_prompt_added, (NANO,)),
    Plant("sampling at a temperature of 0.01", "text", partial(sampled, temperature=0.01), ALL),
    Plant("an end token that is not heeded", "text", first_end_token_unheeded, (NANO, INTERN)),
    Plant("a reply's last token lost", "text", last_token_lost, (NANO,)),
    Plant("boxes in 999ths", "text", thousandths_of_999, (NANO, INTERN)),
    Plant("JPEGs with channels swapped", "pixels", jpeg_channels_swapped, (NANO,)),
    Plant("BGR arrays taken as RGB", "pixels", arrays_of_bgr_taken_as_rgb, (NANO,)),
    Plant("a large photo not turned", "pixels", large_picture_not_turned, (NANO,)),
    Plant("blanks round expressions stripped", "prompt", partial(_expression_changed, change=str.strip), (NANO, INTERN)),
    Plant("expressions composed", "prompt", partial(_expression_changed, change=partial(unicodedata.normalize, "NFC")), (NANO,)),
    Plant("long expressions cut off", "prompt", partial(_expression_changed, change=lambda text: text[:300]), (NANO,)),
    Plant("replies cut at 128 tokens", "text", replies_cut_at_128_tokens, (NANO,)),
    Plant("forced numbers below 1000", "text", forced_numbers_below_1000, (NANO,)),
)
