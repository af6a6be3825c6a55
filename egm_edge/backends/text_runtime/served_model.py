"""ServedModel: what both ends must agree on about a served checkpoint: pixels, task texts and answer syntax."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from egm_edge._processor_config import reading_checkpoint
from egm_edge.bundle import MANIFEST_NAME, Bundle
from egm_edge.families import PromptSpec, encode_prompt, family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounding import Task
from egm_edge.pixels import TILES, PixelSpec, resized


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One checkpoint's terms.

    Attributes:
        family: "qwen3_vl" or "internvl3".
        pixel_spec, prompt_spec: None where nothing but the family is known.
        tokenizer: tokenizer.json's path, None where there is none.
        bundle_hash: of the bundle they came from, "" otherwise.
    """

    family: str
    pixel_spec: PixelSpec | None = None
    prompt_spec: PromptSpec | None = None
    tokenizer: Path | None = None
    bundle_hash: str = ""

    @classmethod
    def of_family(cls, name: str) -> ServedModel:
        """Task texts alone."""
        return cls(family_for(name).name)

    @classmethod
    def read(cls, directory: str | Path) -> ServedModel:
        """From a bundle, or from a checkpoint directory.

        Raises:
            BundleError, CheckpointError: neither of them, or damaged.
        """
        root = Path(directory)
        if (root / MANIFEST_NAME).is_file() or not (root / "config.json").is_file():
            return cls.of_bundle(Bundle.open(root, verify="sizes"))
        from egm_edge.families.chat_template import read_prompt_spec

        prompt_spec, tokenizer = read_prompt_spec(root), root / "tokenizer.json"
        return cls(
            prompt_spec.family,
            PixelSpec.from_checkpoint(root),
            prompt_spec,
            tokenizer if tokenizer.is_file() else None,
        )

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> ServedModel:
        """From an opened bundle."""
        manifest = bundle.manifest
        pixel_spec, prompt_spec = PixelSpec.from_dict(manifest.pixel_spec), PromptSpec.from_dict(manifest.prompt_spec)
        tokenizer = bundle.path("tokenizer.json") if "tokenizer.json" in manifest.files else None
        return cls(manifest.family, pixel_spec, prompt_spec, tokenizer, bundle.hash)

    @property
    def pixel_spec_hash(self) -> str:
        return self.pixel_spec.hash if self.pixel_spec else ""

    @property
    def prompt_spec_hash(self) -> str:
        return self.prompt_spec.hash if self.prompt_spec else ""

    @property
    def in_thought(self) -> bool:
        """The chat template opens a thought, which the server then leaves out of the reply."""
        return self.prompt_spec is not None and self.prompt_spec.in_thought

    @property
    def special_token_syntax(self) -> bool:
        """Answers are made of special tokens, which servers drop unless told not to."""
        return family_for(self.family).answer_syntax == "ref_box"

    def task_text(self, expression: str, task: Task) -> str:
        """The user's text, as the model was trained on it."""
        if self.prompt_spec is not None:
            return self.prompt_spec.task_text(expression, task)
        family = family_for(self.family)
        return (family.amodal if task is Task.AMODAL else family.modal).replace("{expression}", expression)

    def picture_to_send(self, image_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        """The picture and the image tokens it should become (0 where that is not known).

        A picture is resized once. Here, where the checkpoint's own resize leaves the result as it is, as it mostly does (the
        server's budget must hold at least ours). As it came, where the server would resize the result again: budgets whose
        minimum and maximum lie close together, and tiles, which come with a thumbnail of the original.
        """
        spec = self.pixel_spec
        if spec is None:
            return image_rgb, 0
        height, width = image_rgb.shape[:2]
        size_hw, tokens = spec.resized_hw(height, width), spec.image_token_count(width, height)
        kept = spec.rule != TILES and spec.resized_hw(*size_hw) == size_hw
        return resized(image_rgb, spec) if kept else image_rgb, tokens

    def prompt(self, user_text: str) -> str:
        """The whole prompt as the checkpoint's chat template writes it, one image token in it; "" without a template."""
        spec = self.prompt_spec
        return "" if spec is None else spec.prefix + user_text + spec.suffix

    def frame_tokens(self, image_tokens: int) -> int:
        """Prompt tokens that all requests on one picture share, its own included; 0 where that is not known."""
        if self.tokenizer is None or self.prompt_spec is None or not image_tokens:
            return 0
        return len(prefix_ids(_tokenizer(self.tokenizer), self.prompt_spec)) - 1 + image_tokens

    def prompt_tokens(self, expression: str, task: Task, image_tokens: int) -> int:
        """How many prompt tokens the checkpoint's own processor makes; 0 where that is not known."""
        if self.tokenizer is None or self.prompt_spec is None or not image_tokens:
            return 0
        request = encode_prompt(_tokenizer(self.tokenizer), self.prompt_spec, expression, task)[1]
        return self.frame_tokens(image_tokens) + len(request)


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Tokenizer:
    with reading_checkpoint(f"a tokenizer in {path}"):
        return Tokenizer.from_file(str(path))
