"""What every compiler reads of a checkpoint beside its weights: how it stops, its licence, whether greedy means greedy."""

from __future__ import annotations

from build_engine.checkpoint import Checkpoint
from egm_edge.bundle_from_checkpoint import stop_token_ids
from egm_edge.errors import CheckpointError

MAX_CARD_BYTES = 1 << 16  # of a model card, whose licence stands at its head


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
    """End tokens, as transformers' generate finds them."""
    settings = checkpoint.read_json_or_empty("generation_config.json")
    return stop_token_ids(settings, checkpoint.text_config, checkpoint.config)


def weight_licence(checkpoint: Checkpoint) -> str:
    """The licence that the checkpoint's own model card states."""
    card = checkpoint.directory / "README.md"
    if card.is_file():
        with card.open("rb") as stream:
            head = stream.read(MAX_CARD_BYTES).decode("utf-8", "replace")
        for line in head.splitlines()[:40]:
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip() or "not stated"
    return "not stated"
