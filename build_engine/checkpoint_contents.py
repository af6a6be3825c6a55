"""A checkpoint's tensors against its own config: every one known, none missing, all of the shapes that the config says, and finite.

What loading would otherwise pass over in silence is found here: unmerged adapters, a head that is not there, layers more or
fewer than stated. Each error names the key.
"""

from __future__ import annotations

import re

import numpy as np

from build_engine.checkpoint import ROWS_AT_ONCE, Checkpoint
from build_engine.checkpoint_settings import require_settings, require_unquantized
from build_engine.checkpoint_tensors import is_tied, tensors_of
from egm_edge.errors import CheckpointError

# May be there though config.json does not ask for it: a tied head is looked at by itself, nothing reads the others.
_OPTIONAL = re.compile(r"head\.weight|.*inv_freq|vision\.embeddings\.mask_token|vision\.layernorm\.(weight|bias)")
_AGAIN = "download the checkpoint again"


def require_contents(checkpoint: Checkpoint) -> None:
    """Check settings, names and shapes; reads no weight but a head that should be the embeddings.

    Raises:
        CheckpointError: it holds what its architecture does not have, or lacks or shapes otherwise what its config says.
    """
    require_settings(checkpoint)
    require_unquantized(checkpoint)
    _require_merged(checkpoint)
    expected = _expected(checkpoint)
    for name, shape in expected.items():
        if name not in checkpoint:
            raise CheckpointError(f"tensor {name}, as config.json says", "no such tensor", _AGAIN)
        if checkpoint.shape(name) != shape:
            stated = f"{name} of shape {list(shape)}, as config.json says"
            hint = "copy config.json and weights from one checkpoint"
            raise CheckpointError(stated, str(list(checkpoint.shape(name))), hint)
    unknown = sorted(name for name in checkpoint.names() if name not in expected and not _OPTIONAL.fullmatch(name))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        only = f"tensors of a {checkpoint.family} model only, as config.json says"
        raise CheckpointError(only, f"{unknown[0]}{more}", "use the released checkpoint")
    _require_one_head(checkpoint)


def require_finite(checkpoint: Checkpoint) -> None:
    """Read every weight once, for builds that copy them as they are.

    Raises:
        CheckpointError: a NaN or an infinity.
    """
    for name in checkpoint.names():
        shape = checkpoint.shape(name)
        for start in range(0, shape[0] if shape else 0, ROWS_AT_ONCE):
            checkpoint.rows_float32(name, start, min(start + ROWS_AT_ONCE, shape[0]))


def _require_merged(checkpoint: Checkpoint) -> None:
    adapters = sorted(name for name in checkpoint.names() if "lora_" in name or ".base_layer." in name)
    if adapters:
        merge = "merge them: PeftModel.from_pretrained(model, DIR).merge_and_unload().save_pretrained(OUT)"
        raise CheckpointError("merged weights", f"{adapters[0]} (of {len(adapters)} adapter tensors)", merge)


def _expected(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shape by name, as the config says; its numbers of layers are compared before anything is listed by them."""
    text = checkpoint.text_config
    heads = text["num_attention_heads"]
    if heads % (kv_heads := text.get("num_key_value_heads") or heads):
        stated = "num_attention_heads a multiple of num_key_value_heads"
        raise CheckpointError(stated, f"{heads} and {kv_heads}", _AGAIN)
    kinds = list(tensors_of(checkpoint.config))
    for stack, kind in {kind.name.partition(".N.")[0]: kind for kind in kinds if kind.stated_by}.items():
        _require_layers(checkpoint, stack, kind.layers, kind.stated_by)
    expected = {kind.name.replace(".N.", f".{i}."): kind.shape for kind in kinds for i in range(kind.layers)}
    if "head.weight" in checkpoint:
        expected["head.weight"] = expected["text.embed_tokens.weight"]
    return expected


def _require_one_head(checkpoint: Checkpoint) -> None:
    """A head beside `tie_word_embeddings: true` is passed over by whoever ties, so that it has to be the table."""
    table, head = "text.embed_tokens.weight", "head.weight"
    if not is_tied(checkpoint.config) or head not in checkpoint:
        return
    rows = checkpoint.shape(table)[0]
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        if not np.array_equal(checkpoint.rows_float32(table, start, stop), checkpoint.rows_float32(head, start, stop)):
            hint = "set it to false, or remove the head"
            raise CheckpointError("head.weight equal to the embeddings, as tie_word_embeddings says", "another one", hint)


def _require_layers(checkpoint: Checkpoint, stack: str, stated: int, key: str) -> None:
    found = {int(match[1]) for name in checkpoint.names() if (match := re.match(re.escape(stack) + r"\.(\d+)\.", name))}
    if len(found) != stated or found != set(range(stated)):
        raise CheckpointError(f"{stated} layers in {stack}, as {key} says", str(len(found)), _AGAIN)
