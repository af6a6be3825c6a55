"""The true Qwen vocabulary as a `tokenizers.Tokenizer`, rebuilt from the ranks that the vendor's SDK ships.

Reads one data file of the installed `dashscope` package (a test dependency; the SDK itself is never imported). Knows
nothing of checkpoints or chat templates.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

# Qwen2's split: one digit at a time, which is why a coordinate costs one token a digit.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Ids go on from the 151,643 ranks in this order; the ones marked False survive skip_special_tokens.
_BASE_SPECIALS = [
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
]
QWEN3_SPECIALS = [
    *_BASE_SPECIALS,
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
]
INTERNVL3_SPECIALS = [
    *_BASE_SPECIALS,
    *[(f"{t}", True) for t in ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>")],
    *[(f"{t}", True) for t in ("<box>", "</box>", "<video>")],
]


def qwen_tokenizer(specials: list[tuple[str, bool]] | None = None) -> Tokenizer:
    """The true vocabulary with `specials` appended (default: Qwen3's). About 3 s the first time, then from a cache.

    Raises:
        FileNotFoundError: the package that carries the ranks is not installed (see `qwen_vocabulary_available`).
    """
    cached = _cache_dir() / "qwen-bpe-v1.json"
    if not cached.exists():
        scratch = cached.with_suffix(f".{os.getpid()}")
        _build(_ranks_file()).save(str(scratch))
        scratch.replace(cached)
    tokenizer = Tokenizer.from_file(str(cached))
    add_specials(tokenizer, QWEN3_SPECIALS if specials is None else specials)
    return tokenizer


def byte_tokenizer(specials: list[tuple[str, bool]] | None = None) -> Tokenizer:
    """A tiny stand-in with the same pre-tokeniser and specials: one token a byte, 256 of them, no merges."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = _pipeline(Tokenizer(models.BPE(vocab=vocab, merges=[])))
    add_specials(tokenizer, QWEN3_SPECIALS if specials is None else specials)
    return tokenizer


def qwen_vocabulary_available() -> bool:
    """True when the package that carries the ranks is installed."""
    spec = importlib.util.find_spec("dashscope")
    return spec is not None and bool(spec.submodule_search_locations)


def add_specials(tokenizer: Tokenizer, specials: list[tuple[str, bool]]) -> None:
    for text, special in specials:
        token = AddedToken(text, normalized=False, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])


def _ranks_file() -> Path:
    spec = importlib.util.find_spec("dashscope")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the Qwen ranks: install the test extra (package dashscope)")
    return Path(next(iter(spec.submodule_search_locations))) / "resources" / "qwen.tiktoken"


def _cache_dir() -> Path:
    path = Path(os.environ.get("EGM_TEST_CACHE", Path(tempfile.gettempdir()) / "egm-edge-tests"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _build(ranks_file: Path) -> Tokenizer:
    ranks = {}
    for line in ranks_file.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    printable = _byte_alphabet()
    vocab = {"".join(printable[b] for b in token): rank for token, rank in ranks.items()}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = _last_merge(ranks, token, rank)
            merges.append(("".join(printable[b] for b in left), "".join(printable[b] for b in right)))
    return _pipeline(Tokenizer(models.BPE(vocab=vocab, merges=merges)))


def _pipeline(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _last_merge(ranks: dict[bytes, int], token: bytes, rank: int) -> tuple[bytes, bytes]:
    """The two parts that byte-pair merging with only lower ranks leaves of `token`."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        candidates = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, at = min(candidates)
        if best >= rank:
            raise ValueError(f"token {token!r} of rank {rank} cannot be reached by merges")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's map of bytes to printable characters."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}
