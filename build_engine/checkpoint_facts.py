"""What every compiler reads of a checkpoint beside its weights: how it stops, its licence, whether greedy means greedy."""

from __future__ import annotations

from build_engine.checkpoint import Checkpoint
from egm_edge.errors import CheckpointError


def require_plain_greedy(checkpoint: Checkpoint) -> None:
    """Penalties change transformers' greedy text too; the engine has none, so such a checkpoint would answer otherwise."""
    settings = checkpoint.read_json_or_empty("generation_config.json")
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    odd = [f"{key} {settings[key]}" for key, value in neutral.items() if settings.get(key, value) not in (value, None)]
    if odd:
        raise CheckpointError(
            "plain greedy decoding in generation_config.json, as EGM is evaluated",
            ", ".join(odd),
            "remove it from that file",
        )


def stop_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """End tokens: generation_config first, as transformers' generate does, else the text config's.

    A checkpoint that names none (tiny random ones do) ends at the token limit, as it does in transformers.
    """
    for values in (checkpoint.read_json_or_empty("generation_config.json"), checkpoint.text_config, checkpoint.config):
        found = values.get("eos_token_id")
        if found is not None:
            return tuple(int(token) for token in (found if isinstance(found, list) else [found]))
    return ()


def weight_licence(checkpoint: Checkpoint) -> str:
    """The licence that the checkpoint's own model card states."""
    card = checkpoint.directory / "README.md"
    if card.is_file():
        for line in card.read_text("utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip() or "not stated"
    return "not stated"
