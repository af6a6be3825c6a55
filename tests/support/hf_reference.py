"""The reference side of equality tests: transformers' own processors and models, usable without torchvision.

transformers builds its video processors on torchvision, which the tests do not install; the processors here are the
same classes with that one part left out. Needs torch and transformers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel, ProcessorMixin
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
        for name in ("image", "video", "vision_start", "vision_end"):
            token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
            setattr(self, f"{name}_token", token)
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.video_processor = None


class ImageOnlyInternVLProcessor(InternVLProcessor):
    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str, image_seq_length: int) -> None:
        self.image_seq_length = image_seq_length
        self.image_token, self.video_token = tokenizer.context_image_token, tokenizer.video_token
        self.image_token_id = tokenizer.context_image_token_id
        for name in ("start_image_token", "end_image_token", "start_image_token_id", "end_image_token_id"):
            setattr(self, name, getattr(tokenizer, name))
        self.multimodal_pattern = re.compile(f"(?P<image>{re.escape(self.image_token)})|(?P<video>{self.video_token})")
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
        self.video_processor = None


ImageOnlyQwen3VLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])
ImageOnlyInternVLProcessor.get_attributes = classmethod(lambda cls: ["image_processor", "tokenizer"])


def hf_image_processor(checkpoint: Path) -> Any:
    """The checkpoint's image processor, PIL backend."""
    values = json.loads((checkpoint / "preprocessor_config.json").read_text())
    qwen = "merge_size" in values
    return (Qwen2VLImageProcessorPil if qwen else GotOcr2ImageProcessorPil).from_pretrained(checkpoint)


def hf_processor(checkpoint: Path) -> Any:
    """The checkpoint's processor: `apply_chat_template`, and `(text=, images=)` to model inputs."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    template = (checkpoint / "chat_template.jinja").read_text()
    image_processor = hf_image_processor(checkpoint)
    if isinstance(image_processor, Qwen2VLImageProcessorPil):
        return ImageOnlyQwen3VLProcessor(image_processor, tokenizer, template)
    length = json.loads((checkpoint / "processor_config.json").read_text())["image_seq_length"]
    return ImageOnlyInternVLProcessor(image_processor, tokenizer, template, length)


def hf_inputs(processor: Any, image: Any, text: str) -> dict[str, torch.Tensor]:
    """Model inputs of one user turn: the image, then the text, then the generation prompt."""
    content = [{"type": "image"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return dict(processor(text=[prompt], images=[image], return_tensors="pt"))


def hf_model(checkpoint: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The checkpoint's model on the CPU, in evaluation mode."""
    return AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=dtype).eval()


def hf_greedy(model: PreTrainedModel, inputs: dict[str, torch.Tensor], tokens: int) -> list[int]:
    """Greedily generated ids, prompt left out, stopping at an end token."""
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return out[0, inputs["input_ids"].shape[1] :].tolist()
