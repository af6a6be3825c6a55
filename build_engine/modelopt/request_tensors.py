"""Requests as tensors: pictures and sentences through the checkpoint's own PixelSpec and PromptSpec, ready for a model.

The same code prepares calibration, the numeric check and, on the robot, every request: what quantization was calibrated on
is what the model will see. Knows nothing of quantizers and graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from build_engine.parity.cases import Case, rows, scenes
from egm_edge.boxes import Box
from egm_edge.errors import BuildError
from egm_edge.families import PromptSpec, encode_prompt, family_for
from egm_edge.images import load_image
from egm_edge.pixels import TILES, Pixels, PixelSpec, normalise, preprocess

CALIBRATION_REQUESTS = 32
CALIBRATION_SEED = 970_000_000  # beyond the ranges that EGM-Nano trains, is evaluated and is checked on


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One request, ready for a model.

    Attributes:
        input_ids: [n] prompt, image tokens expanded, then the answer where it is known.
        positions: [3, n] rotary positions (time, height, width).
        pixels: patches and their grid.
        pixel_values: float32, the Hugging Face processor's layout.
        answer_tokens: tokens at the end that are the answer.
    """

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    pixels: Pixels
    pixel_values: NDArray[np.float32]
    answer_tokens: int = 0


def calibration_cases(data: Path | None) -> list[Case]:
    """Grounding rows of the user's, or drawn tabletop scenes.

    Raises:
        BuildError: a picture of a row cannot be used.
    """
    count = CALIBRATION_REQUESTS
    return rows(data, None, count) if data else list(scenes(count, first_seed=CALIBRATION_SEED))


def prepare(case: Case, pixel_spec: PixelSpec, prompt_spec: PromptSpec, tokenizer: Tokenizer) -> PreparedRequest:
    """One case as model inputs; its answer follows the prompt where its box is known, as the model will decode it."""
    image = load_image(case.picture)
    pixels = preprocess(image, pixel_spec)
    family = family_for(prompt_spec.family)
    prefix, request = encode_prompt(tokenizer, prompt_spec, case.expression, case.task)
    image_token_id = tokenizer.token_to_id(prompt_spec.image_token)
    if image_token_id is None:
        raise BuildError(f"token {prompt_spec.image_token} in tokenizer.json", "no such token", "copy the checkpoint again")
    expanded = family.prefix_token_ids(prefix, image_token_id, pixels)
    positions = family.positions(expanded, image_token_id, pixels)  # [3, prefix]
    answer = tokenizer.encode(answer_text(case.expression, case.truth, pixels.image_wh, prompt_spec), add_special_tokens=False)
    tail = [*request, *answer.ids]
    following = positions.max() + 1 + np.arange(len(tail))
    return PreparedRequest(
        input_ids=np.asarray([*expanded, *tail], np.int64),
        positions=np.concatenate([positions, np.broadcast_to(following, (3, len(tail)))], axis=1),
        pixels=pixels,
        pixel_values=normalise(pixels, pixel_spec),
        answer_tokens=len(answer.ids),
    )


def answer_text(expression: str, box: Box | None, image_wh: tuple[int, int], spec: PromptSpec) -> str:
    """The reply that grounds `expression`, in the family's own syntax; "" when the box is not known."""
    if box is None:
        return ""
    numbers = [round(v) for v in box.to_norm1000(*image_wh)]
    if spec.answer_syntax == "ref_box":
        return f"<ref>{expression}</ref><box>[{numbers}]</box>"
    thought = "\n</think>\n\n" if spec.in_thought else ""
    return f"{thought}```json\n{json.dumps([{'bbox_2d': numbers, 'label': expression}], ensure_ascii=False)}\n```"


def save_requests(folder: Path, name: str, prepared: Sequence[PreparedRequest], spec: PixelSpec) -> list[Path]:
    """Write each request for the worker; the paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    return list(_save(folder, name, prepared, spec))


def _save(folder: Path, name: str, prepared: Sequence[PreparedRequest], spec: PixelSpec) -> Iterator[Path]:
    for i, one in enumerate(prepared):
        tensors = {"input_ids": one.input_ids[None], "pixel_values": one.pixel_values}
        if spec.rule != TILES:
            tensors["image_grid_thw"] = np.asarray([[1, *one.pixels.grid_hw]], np.int64)
        path = folder / f"{name}-{i:03d}.safetensors"
        save_file(tensors, str(path))
        yield path
