"""What the PyTorch engine should need on a GPU, reckoned from bytes, operations and launches, before anything is measured.

`python -m tests.bench.gpu_reckoning` prints the table of docs/gpu.md. Weights are bf16, batch 1, no draft is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from build_engine.memory_plan import ModelSize
from build_engine.memory_table import PUBLISHED, published_spec

MODELS = {"2b": "Qwen3-VL-2B", "4b": "EGM-4B", "8b": "EGM-8B"}
SIZES = ((640, 480), (1280, 720))
ANSWER_TOKENS = 100
PROMPT_TOKENS = 60  # chat template and a short sentence
MATRIX_SHARE = 0.4  # of the peak, attained in vision and prefill; an assumption
KERNEL_US = 1.7  # a small kernel inside a CUDA graph; an assumption
ATTENTION_US = 15.0  # one layer's attention of few query rows; an assumption
EAGER_LAYER_US = 200.0  # a prefill layer's launches from Python; an assumption
HOST_MS = 0.3  # logits to the host, choice of the token, the next step's inputs; an assumption
SMALL_KERNELS = 17  # a decoder layer's launches besides its four products and attention; counted by test_gpu_check.py


@dataclass(frozen=True, slots=True)
class Card:
    """A card. copy_tb_s: what its memory copies attain, 82 % of the data sheet. peak_tflops: bf16, dense, data sheet."""

    name: str
    copy_tb_s: float
    peak_tflops: float


CARDS = (Card("H100 SXM", 0.82 * 3.35, 989.0), Card("H200 SXM", 0.82 * 4.8, 989.0))


@dataclass(frozen=True, slots=True)
class Reckoned:
    """Milliseconds. limit_ms: the bytes of a step over the copy rate; the others hold launches and the host's share too."""

    image_tokens: int
    limit_ms: float
    step_ms: float
    first_token_ms: float
    answer_ms: float
    second_ms: float


def reckon(model: str, card: Card, wh: tuple[int, int]) -> Reckoned:
    """A published size on a card, for one camera size."""
    config = PUBLISHED[MODELS[model]]
    size, spec = ModelSize.of(config), published_spec(MODELS[model])
    height, width = spec.resized_hw(wh[1], wh[0])
    patches = width * height // spec.patch_size**2
    image = patches // spec.merge_size**2
    layers = int(config["text_config"]["num_hidden_layers"])
    step_bytes = step_bytes_of(size, image + PROMPT_TOKENS + ANSWER_TOKENS // 2)
    limit_ms = step_bytes / card.copy_tb_s / 1e9
    step_ms = limit_ms + layers * (SMALL_KERNELS * KERNEL_US + ATTENTION_US) / 1e3 + HOST_MS
    attained = card.peak_tflops * MATRIX_SHARE * 1e9  # operations a millisecond
    vision_ms = 2 * size.vision * patches / attained
    prefill_ms = max(2 * size.decoder * (image + PROMPT_TOKENS) / attained, layers * EAGER_LAYER_US / 1e3)
    second_ms = max(step_ms, layers * EAGER_LAYER_US / 1e3) + ANSWER_TOKENS * step_ms  # its own words, then the answer
    first_ms = vision_ms + prefill_ms + step_ms
    return Reckoned(image, limit_ms, step_ms, first_ms, first_ms + (ANSWER_TOKENS - 1) * step_ms, second_ms)


def step_bytes_of(size: ModelSize, context: int) -> int:
    """Bytes that one step must read: decoder, head, and the cache of `context` tokens."""
    return 2 * (size.decoder + size.table + size.kv_values * context)


def table() -> str:
    """Markdown."""
    head = "| model | card | picture | image tokens | memory limit, ms a step | step, ms | share of the limit | first token, ms "
    lines = [head + f"| {ANSWER_TOKENS} tokens, ms | second sentence, ms |", "|---|---|---|" + "---:|" * 7]
    for model in MODELS:
        for card in CARDS:
            for wh in SIZES:
                r = reckon(model, card, wh)
                share = f"{r.limit_ms / r.step_ms:.0%}"
                cells = [model.upper(), card.name, f"{wh[0]}x{wh[1]}", str(r.image_tokens), f"{r.limit_ms:.2f}"]
                cells += [f"{r.step_ms:.2f}", share, f"{r.first_token_ms:.0f}", f"{r.answer_ms:.0f}", f"{r.second_ms:.0f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
