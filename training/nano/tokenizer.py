"""The tokenizer of EGM-Nano: a thousand byte-level BPE tokens without merges. Knows nothing of models.

Whole words of the tabletop world and the multiples of 5 from 0 to 1000 are single tokens; everything else falls back to
bytes, so any UTF-8 text round-trips. The constant chunks of prompt and answer are single *non-special* added tokens:
decoding with `skip_special_tokens=True` must keep them.
"""

from __future__ import annotations

import functools
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from egm_edge.families import family_for
from egm_edge.files import write_json
from egm_edge.synthetic.vocabulary import ALL_COLOURS, COLOUR_SYNONYMS, COLOURS, NOUNS, ORDINALS, SHAPES, SIZES
from egm_edge.synthetic.wording import EXTRA_WORDS

SPECIAL: tuple[str, ...] = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
# What follows the expression in EGM's two task texts: one token each.
_FAMILY = family_for("qwen3_vl")
TASK_MODAL, TASK_AMODAL = (text.partition("{expression}")[2] for text in (_FAMILY.modal, _FAMILY.amodal))
BOX_OPEN = '```json\n[{"bbox_2d": ['
BOX_CLOSE = '], "label": "'
LABEL_CLOSE = '"}]\n```'
NOTHING = "```json\n[]\n```"
CHUNKS: tuple[str, ...] = (THINK_OPEN, THINK_CLOSE, TASK_AMODAL, TASK_MODAL, BOX_OPEN, BOX_CLOSE, LABEL_CLOSE, NOTHING)

_WORDS: tuple[str, ...] = (
    *SHAPES, *COLOURS, *SIZES, *ORDINALS, "object", "the", "The", "leftmost", "rightmost", "largest", "smallest", "from",
    "left", "right", "of", "in", "front", "behind", "target", "none", "every", "all", "objects", "a", "an", "and", "to",
    "Locate", "List", "user", "assistant", "system", "nearest", "farthest", "closest", "next", "top", "bottom", "above",
    "below", "between", "thing", "one", "is", "on", "table", "output", "its", "bbox", "coordinates", "using", "JSON", "format",
)  # fmt: skip
_HOUSEHOLD: tuple[str, ...] = tuple(
    dict.fromkeys(
        word
        for phrase in (
            *NOUNS,
            *(o for others in NOUNS.values() for o in others),
            *ALL_COLOURS,
            *COLOUR_SYNONYMS.values(),
        )
        for word in phrase.split()
    )
)
_PUNCTUATION: tuple[str, ...] = (", ", " [", "].", "]; ", "; ", ": ", "\n\n", ". ", '", "', "],")
_SPLIT = r" ?[A-Za-z]+|\d+|(?:[^A-Za-z\d ]| (?![A-Za-z]))+"

NUMBERS: tuple[int, ...] = tuple(range(0, 1001, 5))


@functools.cache
def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {b: chr(b) for b in printable}
    extra = (b for b in range(256) if b not in table)
    return table | {b: chr(256 + i) for i, b in enumerate(extra)}


def _as_bytes(text: str) -> str:
    return "".join(_byte_alphabet()[b] for b in text.encode())


def build_tokenizer() -> Tokenizer:
    """The tokenizer, always the same: ids depend on nothing but this file and the scene vocabulary."""
    entries: dict[str, int] = {}
    for text in (*sorted(_byte_alphabet().values()),):
        entries.setdefault(text, len(entries))
    words = tuple(dict.fromkeys((*_WORDS, *_HOUSEHOLD, *EXTRA_WORDS)))
    # An expression stands behind a space, so only that form of a word occurs with a capital.
    capitals = (" " + word.capitalize() for word in words if word.islower())
    for text in (*words, *(" " + word for word in words), *capitals, *_PUNCTUATION, *(str(n) for n in NUMBERS)):
        entries.setdefault(_as_bytes(text), len(entries))
    tokenizer = Tokenizer(models.BPE(vocab=entries, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in CHUNKS])
    return tokenizer


CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}\n"
)
"""Single- and multi-turn ChatML in the layout of the Qwen3-VL Thinking models (they open the thought themselves)."""


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
        "thought_chosen_box": "target",
    }
    write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
