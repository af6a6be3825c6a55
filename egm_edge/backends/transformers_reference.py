"""TransformersReference: a checkpoint as transformers itself runs it, the side that every backend is compared with.

Independent of this project on purpose: pixels come from the checkpoint's own image processor (its Pillow backend, so that
torchvision is not needed), the prompt from its own chat template, token ids from its own tokenizer, positions from the
model's own code. Only the task text is handed in. A constant that is wrong on our side can therefore be seen.

Notation: B requests, n prompt tokens, r reply tokens, t image tokens, H hidden size, V vocabulary size, d head size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from egm_edge._processor_config import read_json, reading_checkpoint
from egm_edge.bundle_from_checkpoint import check_weights
from egm_edge.errors import BackendError, message_of
from egm_edge.pixels import TILES, PixelSpec

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_HINT = "pip install 'egm-edge[verify]'"


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request as the checkpoint's own processor makes it.

    Attributes:
        inputs: tensors of a batch of one (`input_ids`, `attention_mask`, `pixel_values`, …).
        in_thought: the chat template opened a thought.
    """

    inputs: dict[str, torch.Tensor]
    in_thought: bool

    @property
    def ids(self) -> list[int]:
        """Prompt tokens, the image token expanded."""
        return list(self.inputs["input_ids"][0].tolist())

    @property
    def pixel_values(self) -> NDArray[np.float32]:
        """Normalised pixels: [N, 3*T*P*P] patches, or [tiles, 3, S, S]."""
        return np.asarray(self.inputs["pixel_values"].float().cpu().numpy(), np.float32)


@dataclass(frozen=True, slots=True)
class ReferenceTrace:
    """What the model computes on the way to one reply, float32.

    Attributes:
        embeddings: [t, H] image embeddings. deepstack: features of the same shape.
        positions: [3, n] rotary positions of the prompt (time, height, width).
        logits: [last, V] after each of the last prompt and reply tokens.
    """

    embeddings: NDArray[np.float32]
    deepstack: list[NDArray[np.float32]]
    positions: NDArray[np.int64]
    logits: NDArray[np.float32]


class TransformersReference:
    """A checkpoint opened by transformers.

    Args:
        checkpoint: a Hugging Face directory; only safetensors are read.
        max_pixels: the area budget that a bundle was built with; None for the checkpoint's own.
        dtype: arithmetic, a torch dtype name. device: where to run, a torch device name.

    Raises:
        BackendError: torch or transformers is missing.
        CheckpointError: transformers cannot open the directory.
    """

    def __init__(
        self, checkpoint: str | Path, *, max_pixels: int | None = None, dtype: str = "float32", device: str = "cpu"
    ) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise BackendError("torch and transformers, which run the reference", str(error), _HINT) from None
        self.checkpoint = Path(checkpoint)
        check_weights(self.checkpoint)
        self.device = _usable(device)
        self.name = f"transformers {transformers.__version__}, {dtype}, {device}"
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        with reading_checkpoint(f"a checkpoint that transformers opens in {self.checkpoint}"):
            self.processor = _processor(self.checkpoint)
            self.model = self._load_model(dtype)
        self.model = self.model.eval().to(device) if device != "cpu" else self.model.eval()
        self.tokenizer = self.processor.tokenizer
        if max_pixels is not None:
            _limit_pixels(self.processor.image_processor, PixelSpec.from_checkpoint(self.checkpoint), max_pixels)
        self.image_token_id = int(self.model.config.image_token_id)
        self.end_token_ids = _end_tokens(self.model.generation_config.eos_token_id)

    def _load_model(self, dtype: str) -> Any:
        import torch
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(
            self.checkpoint, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )

    @property
    def text_config(self) -> Any:
        return self.model.config.text_config

    @property
    def deepstack_count(self) -> int:
        return len(getattr(self.model.config.vision_config, "deepstack_visual_indexes", None) or [])

    @property
    def rope(self) -> tuple[float, tuple[int, ...] | None]:
        """Base and M-RoPE section of the decoder, as the model computes with them."""
        rotary = self.model.model.language_model.rotary_emb
        section = getattr(rotary, "mrope_section", None)
        return float(rotary.config.rope_parameters["rope_theta"]), tuple(section) if section else None

    @property
    def vision_rope_theta(self) -> float:
        """Base of the vision tower's rotary frequencies, 0 where it has none."""
        rope = getattr(self.model.config.vision_config, "rope_parameters", None)
        return float(rope["rope_theta"]) if rope else 0.0

    def pixel_values(self, image: Image) -> tuple[NDArray[np.float32], tuple[int, int] | None]:
        """One picture through the checkpoint's image processor: pixels, and rows and columns of patches where it has them."""
        options = dict(getattr(self.processor, "image_defaults", ()))
        made = self.processor.image_processor(images=[image.convert("RGB")], return_tensors="pt", **options)
        grid = made["image_grid_thw"][0].tolist() if "image_grid_thw" in made else None
        return np.asarray(made["pixel_values"].float().numpy()), (grid[1], grid[2]) if grid else None

    def prepare(self, image: Image, text: str) -> Prepared:
        """One user turn: the picture, then the text, then the generation prompt."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        made = self.processor(text=[prompt], images=[image.convert("RGB")], return_tensors="pt")
        inputs = {name: value.to(self.device) for name, value in made.items()}
        return Prepared(inputs, prompt.rstrip().endswith("<think>"))

    def generate(self, prepared: Sequence[Prepared], max_new_tokens: int) -> list[list[int]]:
        """Greedy replies without their end tokens, all requests as one left-padded batch."""
        import torch

        longest = max(p.inputs["input_ids"].shape[1] for p in prepared)
        pad = int(self.tokenizer.pad_token_id or 0)
        batch: dict[str, torch.Tensor] = {}
        for name in prepared[0].inputs:
            values = [p.inputs[name] for p in prepared]
            if values[0].dim() == 2 and name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                filler = pad if name == "input_ids" else 0
                values = [torch.nn.functional.pad(v, (longest - v.shape[1], 0), value=filler) for v in values]
            batch[name] = torch.cat(values)
        with torch.inference_mode():
            out = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        return [_until_end(row, self.end_token_ids) for row in out[:, longest:].tolist()]

    def trace(
        self, prepared: Prepared, reply: Sequence[int], last: int, *, without_deepstack: bool = False
    ) -> ReferenceTrace:
        """Every stage of one request, the reply fed as it stands (teacher forcing).

        Args:
            last: how many tokens, counted from the end, to give logits of.
            without_deepstack: the decoder gets zeros for the deep-stack features.
        """
        import torch

        inputs, extra = dict(prepared.inputs), len(reply)
        vision = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
        with torch.inference_mode():
            features = self.model.get_image_features(**vision, return_dict=True)
            positions = self.positions(inputs)
            if int(self.model.config.image_token_id) in reply:  # random weights say it; no picture belongs to it
                logits = self._behind_the_prompt(inputs, reply, int(positions.max()) + 1, last, without_deepstack)
                return ReferenceTrace(_rows(features.pooler_output), _features(features), positions, logits)
            appended = torch.tensor([list(reply)], dtype=torch.int64, device=self.device)
            inputs["input_ids"] = torch.cat([inputs["input_ids"], appended], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            if "mm_token_type_ids" in inputs:
                inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, extra))
            self.model.model.rope_deltas = None  # kept from the last `generate`, for a batch of another size
            with _deepstack_zeroed(self.model.model.language_model) if without_deepstack else nullcontext():
                logits = self.model(**inputs, logits_to_keep=last, use_cache=False).logits[0]
        found = np.asarray(logits.float().cpu().numpy())
        return ReferenceTrace(_rows(features.pooler_output), _features(features), positions, found)

    def _behind_the_prompt(
        self, inputs: dict[str, Any], reply: Sequence[int], start: int, last: int, without_deepstack: bool
    ) -> NDArray[np.float32]:
        """Logits of the last tokens of prompt and reply, the reply fed by itself behind the prompt as `generate` feeds it."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        self.model.model.rope_deltas = None
        with _deepstack_zeroed(self.model.model.language_model) if without_deepstack else nullcontext():
            before = self.model(**inputs, past_key_values=cache, use_cache=True).logits[0]
        ids = torch.tensor([list(reply)], dtype=torch.int64, device=self.device)
        places = torch.arange(start, start + len(reply), device=self.device)[None]
        if "image_grid_thw" in inputs:
            places = places.expand(3, 1, -1)  # time, height, width
        behind = self.model(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True).logits[0]
        return np.asarray(torch.cat([before, behind])[-last:].float().cpu().numpy())

    def text(self, ids: Sequence[int], *, marked: bool = False) -> str:
        """Reply text; `marked` keeps special tokens, which InternVL's answer syntax is made of."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not marked))

    def positions(self, inputs: dict[str, torch.Tensor]) -> NDArray[np.int64]:
        """Rotary positions [3, n] of prompt tokens, as the model counts them."""
        length = inputs["input_ids"].shape[1]
        rope_index = getattr(self.model.model, "get_rope_index", None)
        if rope_index is None:
            return np.tile(np.arange(length, dtype=np.int64), (3, 1))
        positions, _ = rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        return np.asarray(positions[:, 0].cpu().numpy(), np.int64)


@contextmanager
def _deepstack_zeroed(decoder: Any) -> Iterator[None]:
    def zero(_: Any, args: Any, values: dict[str, Any]) -> Any:
        features = values.get("deepstack_visual_embeds")
        return args, values | {"deepstack_visual_embeds": features and [feature * 0 for feature in features]}

    hook = decoder.register_forward_pre_hook(zero, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _usable(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        found = f"{device!r}: {message_of(error, 200)}"
        raise BackendError("a torch device of this machine", found, "pass cpu, or cuda where torch sees a GPU") from None
    return device


def _processor(checkpoint: Path) -> Any:
    """The checkpoint's processor without its video part, which needs torchvision."""
    from transformers import AutoTokenizer, ProcessorMixin
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.processing_internvl import InternVLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    class ImageOnlyQwen3VL(Qwen3VLProcessor):
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
            for name in ("image", "video", "vision_start", "vision_end"):
                token = f"<|{name}_pad|>" if name in ("image", "video") else f"<|{name}|>"
                setattr(self, f"{name}_token", token)
                setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.video_processor = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    class ImageOnlyInternVL(InternVLProcessor):
        image_defaults = (("crop_to_patches", True),)  # what its __call__ passes on whatever the checkpoint says

        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str, image_seq_length: int) -> None:
            self.image_seq_length = image_seq_length
            self.image_token, self.video_token = tokenizer.context_image_token, tokenizer.video_token
            self.image_token_id = tokenizer.context_image_token_id
            for name in ("start_image_token", "end_image_token", "start_image_token_id", "end_image_token_id"):
                setattr(self, name, getattr(tokenizer, name))
            marks = f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
            self.multimodal_pattern = re.compile(marks)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.video_processor = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    template = _chat_template(checkpoint, tokenizer)
    config = read_json(checkpoint / "config.json")
    if config.get("model_type") == "internvl":
        image_processor = GotOcr2ImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
        path = checkpoint / "processor_config.json"
        values = read_json(path) if path.is_file() else config
        return ImageOnlyInternVL(image_processor, tokenizer, template, int(values.get("image_seq_length", 256)))
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint, local_files_only=True)
    return ImageOnlyQwen3VL(image_processor, tokenizer, template)


def _chat_template(checkpoint: Path, tokenizer: Any) -> str:
    """In the order in which transformers' processors look for it."""
    plain, wrapped = checkpoint / "chat_template.jinja", checkpoint / "chat_template.json"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    if wrapped.is_file():
        return str(read_json(wrapped)["chat_template"])
    return str(tokenizer.chat_template)


def _limit_pixels(image_processor: Any, own: PixelSpec, max_pixels: int) -> None:
    spec = own.with_max_pixels(max_pixels)
    if spec.rule == TILES:
        image_processor.min_patches, image_processor.max_patches = spec.min_tiles, spec.max_tiles
    else:
        image_processor.size = type(image_processor.size)(shortest_edge=spec.min_pixels, longest_edge=spec.max_pixels)


def _end_tokens(stated: int | list[int] | None) -> frozenset[int]:
    return frozenset() if stated is None else frozenset(stated if isinstance(stated, list) else [stated])


def _until_end(ids: list[int], end_ids: frozenset[int]) -> list[int]:
    ends = [i for i, token in enumerate(ids) if token in end_ids]
    return ids[: ends[0]] if ends else ids


def _features(features: Any) -> list[NDArray[np.float32]]:
    return [_rows(feature) for feature in getattr(features, "deepstack_features", None) or []]


def _rows(features: Any) -> NDArray[np.float32]:
    """Features of all images or tiles as rows [t, H]; transformers gives them per image, per tile or in one piece."""
    import torch

    whole = torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
    return np.asarray(whole.reshape(-1, whole.shape[-1]).float().cpu().numpy())
