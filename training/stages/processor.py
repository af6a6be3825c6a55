"""EgmProcessor: prompts and pixels of training are those of the robot, in the shape that TRL and transformers call.

It wraps `egm_edge.pixels`, `egm_edge.families` and the checkpoint's tokenizer.json; it renders, resizes and counts nothing
itself. Being a ProcessorMixin in name only, it needs neither torchvision nor a video processor.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, ProcessorMixin

from egm_edge._processor_config import reading_checkpoint
from egm_edge.errors import CheckpointError, InputError
from egm_edge.families import family_for
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.families.prompts import check_prompt_split, image_token_id, prefix_ids
from egm_edge.pixels import TILES, Pixels, PixelSpec, normalise, preprocess

# Everything beside weights and config.json that a checkpoint of either family may have.
SIDE_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, tokenised, with its picture.

    Attributes:
        ids: tokens, the image token expanded.
        pixels: of the picture in it.
    """

    ids: list[int]
    pixels: Pixels


class EgmProcessor(ProcessorMixin):
    """The processor of one checkpoint directory.

    Attributes:
        pixel_spec, prompt_spec: the checkpoint's own, as the robot will read them.
        tokenizer: transformers' tokenizer, for decoding and padding; ids come from tokenizer.json itself.
        end_token_ids: tokens that end an answer.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = Path(checkpoint)
        self.pixel_spec = PixelSpec.from_checkpoint(self.checkpoint)
        self.prompt_spec = read_prompt_spec(self.checkpoint)
        self.family = family_for(self.prompt_spec.family)
        tokenizer_file = self.checkpoint / "tokenizer.json"
        if not tokenizer_file.is_file():
            raise CheckpointError(f"tokenizer.json in {self.checkpoint}", "no such file", "save the fast tokenizer")
        with reading_checkpoint(f"a tokenizer in {self.checkpoint}"):
            self.ids = Tokenizer.from_file(str(tokenizer_file))
            self.tokenizer = AutoTokenizer.from_pretrained(self.checkpoint, local_files_only=True)
            self.tokenizer.padding_side = "left"
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token
            self.end_token_ids = sorted({self.tokenizer.eos_token_id, self.tokenizer.pad_token_id})
        check_prompt_split(self.ids, self.prompt_spec)
        self.image_token_id = image_token_id(self.ids, self.prompt_spec)
        self.chat_template = None
        self.image_processor = TileCounter(self.pixel_spec)
        self._prefix_ids = prefix_ids(self.ids, self.prompt_spec)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["tokenizer"]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def prompt(self, image_rgb: NDArray[np.uint8], task_text: str) -> Prompt:
        """The prompt of one request; `task_text` is PromptSpec.task_text(expression, task)."""
        pixels = preprocess(image_rgb, self.pixel_spec)
        prefix = self.family.prefix_token_ids(self._prefix_ids, self.image_token_id, pixels)
        request = self.ids.encode(task_text + self.prompt_spec.suffix, add_special_tokens=False).ids
        return Prompt([*prefix, *request], pixels)

    def prompt_length(self, image_wh: tuple[int, int], task_text: str) -> int:
        """How many tokens `prompt` would give, without the picture."""
        request = self.ids.encode(task_text + self.prompt_spec.suffix, add_special_tokens=False).ids
        return len(self._prefix_ids) - 1 + self.pixel_spec.image_token_count(*image_wh) + len(request)

    def vision_inputs(self, pixels: Sequence[Pixels]) -> dict[str, torch.Tensor]:
        """`pixel_values` [N or T, ...] float32, and `image_grid_thw` [B, 3] where the family has one."""
        values = [torch.from_numpy(normalise(p, self.pixel_spec)) for p in pixels]
        inputs = {"pixel_values": torch.cat(values)}
        if self.pixel_spec.rule != TILES:
            inputs["image_grid_thw"] = torch.tensor([(1, *p.grid_hw) for p in pixels], dtype=torch.int64)
        return inputs

    def token_types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """`mm_token_type_ids` (1 on image tokens) where the family's forward wants them."""
        return {} if self.pixel_spec.rule == TILES else {"mm_token_type_ids": (ids == self.image_token_id).long()}

    def model_inputs(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """A left-padded batch, ready for `generate`."""
        longest = max(len(p.ids) for p in prompts)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(p.ids)) + p.ids for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p.ids)) + [1] * len(p.ids) for p in prompts])
        vision = self.vision_inputs([p.pixels for p in prompts])
        return {"input_ids": ids, "attention_mask": mask, **self.token_types(ids), **vision}

    # What follows is what TRL's GRPOTrainer calls.

    def apply_chat_template(self, conversation: Any, tokenize: bool = False, **_options: Any) -> Any:
        """Text of one conversation or of several; with `tokenize` their ids and vision inputs. User turns only."""
        several = bool(conversation) and isinstance(conversation[0], list)
        turns = [_user_turn(c) for c in (conversation if several else [conversation])]
        if not tokenize:
            texts = [self.prompt_spec.prefix + text + self.prompt_spec.suffix for text, _ in turns]
            return texts if several else texts[0]
        prompts = [self.prompt(_rgb(image), text) for text, image in turns]
        types = [[int(i == self.image_token_id) for i in p.ids] for p in prompts]
        named = {"mm_token_type_ids": types} if self.pixel_spec.rule != TILES else {}
        return {"input_ids": [p.ids for p in prompts], **named, **self.vision_inputs([p.pixels for p in prompts])}

    def __call__(self, images: Any = None, text: Any = None, **_options: Any) -> dict[str, torch.Tensor]:
        """Texts as `apply_chat_template` renders them, one picture each, to a left-padded batch."""
        if images is None or text is None or len(images) != len(text):
            raise InputError("one picture a text", f"{len(images or ())} and {len(text or ())}", "pass both")
        prompts = []
        for picture, rendered in zip(images, text, strict=True):
            task_text = rendered.removeprefix(self.prompt_spec.prefix).removesuffix(self.prompt_spec.suffix)
            prompts.append(self.prompt(_rgb(picture), task_text))
        return self.model_inputs(prompts)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The text of generated tokens: end tokens left out, markers of the answer syntax kept, special or not."""
        return str(self.tokenizer.decode([i for i in ids if i not in self.end_token_ids], skip_special_tokens=False))

    def batch_decode(self, sequences: Any, **_options: Any) -> list[str]:
        """As `decode_answer`: transformers' own would drop `<box>`, which is a special token of InternVL3."""
        return [self.decode_answer(s.tolist() if isinstance(s, torch.Tensor) else s) for s in sequences]

    def decode(self, ids: Any, **_options: Any) -> str:
        return self.decode_answer(ids.tolist() if isinstance(ids, torch.Tensor) else ids)

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **_options: Any) -> list[str]:
        """Copy the checkpoint's own files, byte for byte: what is trained on is what the robot will read."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        names = [name for name in SIDE_FILES if (self.checkpoint / name).is_file()]
        for name in names:
            if (self.checkpoint / name).resolve() != (directory / name).resolve():
                shutil.copyfile(self.checkpoint / name, directory / name)
        return names


class TileCounter:
    """The one thing TRL asks an image processor for: how many tiles each picture becomes."""

    merge_size = 2

    def __init__(self, spec: PixelSpec) -> None:
        self._spec = spec

    def __call__(self, images: Any, **_options: Any) -> dict[str, torch.Tensor]:
        sizes = [_rgb(image).shape for image in images]
        counts = [self._spec.image_token_count(w, h) // max(1, self._spec.tokens_per_tile) for h, w, _ in sizes]
        return {"num_patches": torch.tensor(counts)}


def _user_turn(conversation: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """Text and picture of a conversation that is one user turn."""
    if len(conversation) != 1 or conversation[0]["role"] != "user":
        roles = ", ".join(str(turn.get("role")) for turn in conversation)
        raise InputError("one user turn", f"turns of {roles or 'nobody'}", "build prompts with grpo_dataset")
    content = conversation[0]["content"]
    if isinstance(content, str):
        return content, None
    text = "".join(part["text"] for part in content if part["type"] == "text")
    return text, next((part.get("image") for part in content if part["type"] == "image"), None)


def _rgb(picture: Any) -> NDArray[np.uint8]:
    """An RGB array from a Pillow picture, an array, or a list that holds one."""
    if isinstance(picture, (list, tuple)) and len(picture) == 1:
        return _rgb(picture[0])
    if picture is None or isinstance(picture, (list, tuple)):
        raise InputError("one picture a prompt", f"{picture!r:.60}", "build prompts with grpo_dataset")
    return np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture, np.uint8)
