"""Frame: one camera picture, ready to be asked about, and its place inside the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import EngineFrame
from egm_edge.decoding.speculative.reply_cache import ReplyCache
from egm_edge.grounding import Grounding
from egm_edge.images import load_picture
from egm_edge.loaded_model import LoadedModel
from egm_edge.pixels import TILES, Pixels, preprocess

ImageSource = str | Path | bytes | NDArray[np.uint8]


@dataclass(slots=True)
class Frame:
    """One camera frame; made by `Grounder.frame`.

    Vision and the image's part of the prompt are computed by the first request and kept, so that a second expression on
    the same frame pays only for its own words.

    Attributes:
        image_wh: width and height of the original image, pixels.
        reduced_by: 1, or at which fraction (1/2, 1/4, 1/8) a JPEG was decoded; its pixels are then not the reference's.
        stamp_ns: the caller's stamp, carried to every Grounding of this frame.
        decode_image_ms, preprocess_ms: what making the frame cost.
        engine_frame: the whole image inside the engine. smaller: the same with fewer tokens, by their count.
        replies: what was said about it.
    """

    image_wh: tuple[int, int]
    stamp_ns: int | None
    decode_image_ms: float
    preprocess_ms: float
    pixels: Pixels = field(repr=False)
    image_rgb: NDArray[np.uint8] = field(repr=False)
    reduced_by: int = 1
    engine_frame: EngineFrame | None = field(default=None, repr=False)
    smaller: dict[int, EngineFrame] = field(default_factory=dict, repr=False)
    replies: ReplyCache = field(default_factory=ReplyCache, repr=False)
    owner: object = field(default=None, repr=False)

    def charged_to(self, grounding: Grounding) -> Grounding:
        """A Grounding whose request also waited for this frame to be decoded and preprocessed."""
        return grounding.with_frame_cost(self.decode_image_ms, self.preprocess_ms)


def make_frame(
    model: LoadedModel,
    image: ImageSource,
    *,
    color: str | None,
    stamp_ns: int | None,
    reduced_decoding: bool = False,
    owner: object,
) -> Frame:
    """Read and preprocess an image; arguments and errors as `Grounder.frame`."""
    started = time.perf_counter()
    picture = load_picture(image, color, reduced_to=model.pixel_spec.resized_wh if reduced_decoding else None)
    decoded = time.perf_counter()
    pixels = preprocess(picture.image_rgb, model.pixel_spec)
    finished = time.perf_counter()
    from_array = isinstance(image, np.ndarray)
    return Frame(
        image_wh=picture.original_wh,
        stamp_ns=stamp_ns,
        decode_image_ms=0.0 if from_array else (decoded - started) * 1e3,
        preprocess_ms=(finished - (started if from_array else decoded)) * 1e3,
        pixels=pixels,
        image_rgb=picture.image_rgb,
        reduced_by=picture.reduced_by,
        owner=owner,
    )


def open_in_engine(model: LoadedModel, frame: Frame, image_share: float = 1.0) -> tuple[EngineFrame, bool]:
    """The frame inside the engine, opened by whoever asks first, and whether that was an earlier request.

    Args:
        image_share: with about this share of its image tokens; where the image cannot be made smaller, as it is.
    """
    started = time.perf_counter()
    pixels = frame.pixels if image_share == 1.0 else _smaller(model, frame, image_share)
    count = pixels.image_token_count
    whole = count == frame.pixels.image_token_count
    found = frame.engine_frame if whole else frame.smaller.get(count)
    if found is not None:
        return found, True
    pixels = frame.pixels if whole else pixels
    opened = model.backend.open_frame(pixels, model.prefix_ids(pixels))
    model.latency.record_frame(opened.image_token_count, (time.perf_counter() - started) * 1e3)
    if whole:
        frame.engine_frame = opened
    else:
        frame.smaller[count] = opened
    return opened, False


def _smaller(model: LoadedModel, frame: Frame, image_share: float) -> Pixels:
    spec = model.pixel_spec
    height, width = spec.resized_hw(*frame.image_rgb.shape[:2])
    unit = spec.tile_size if spec.rule == TILES else spec.patch_size * spec.merge_size
    budget = max(round(height * width * image_share), unit * unit)
    return preprocess(frame.image_rgb, spec.with_max_pixels(budget))
