"""DecoderShape: a decoder's dimensions and rotary settings as config.json states them, and the activations that are known.

The one reader of both, for engines that compute the decoder themselves and for exporters. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from egm_edge.errors import CheckpointError

QWEN3_VL_MROPE_SECTION = (24, 20, 20)  # what transformers' Qwen3VLTextRotaryEmbedding takes where the config is silent
_GELU_APPROXIMATION = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Dimensions of a decoder, read from a checkpoint's text_config.

    Attributes:
        mrope_section: how many of the head_dim / 2 frequencies follow time, height and width; None for plain RoPE.
        tied_head: the head is the embedding table.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rms_epsilon: float
    rope_theta: float
    mrope_section: tuple[int, int, int] | None
    max_positions: int
    tied_head: bool

    @classmethod
    def of(
        cls, text: Mapping[str, Any], model_type: str, *, query_rows: int, vocab: int, tied_head: bool
    ) -> DecoderShape:
        """From a text_config and what only the weights say.

        Args:
            model_type: of config.json. query_rows: of the first layer's q_proj. vocab: rows of the embedding table.

        Raises:
            CheckpointError: a decoder that none of the engines computes.
        """
        rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        # "dynamic" (InternVL3) equals plain RoPE up to max_position_embeddings, which the cache never exceeds.
        if kind not in ("default", "mrope", "dynamic"):
            hint = "this checkpoint's long-context RoPE is not supported"
            raise CheckpointError("rope_type default, mrope or dynamic", repr(kind), hint)
        if text.get("hidden_act", "silu") != "silu":
            raise CheckpointError("hidden_act silu", repr(text["hidden_act"]), "use a Qwen2.5 or Qwen3 decoder")
        if text.get("use_sliding_window") or "sliding_attention" in str(text.get("layer_types")):
            raise CheckpointError("full attention in every layer", "sliding windows", "this decoder is not supported")
        heads = int(text["num_attention_heads"])
        section = rope.get("mrope_section") or (QWEN3_VL_MROPE_SECTION if model_type == "qwen3_vl" else None)
        return cls(
            hidden=int(text["hidden_size"]),
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=query_rows // heads,
            vocab=vocab,
            rms_epsilon=float(text.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 10000.0))),
            mrope_section=(int(section[0]), int(section[1]), int(section[2])) if section else None,
            max_positions=int(text["max_position_embeddings"]),
            tied_head=tied_head,
        )


def gelu_kind(activation: str) -> str:
    """GELU's `approximate`, in ONNX and in PyTorch, for transformers' name of a vision tower's activation.

    Raises:
        CheckpointError: it is another activation.
    """
    if activation not in _GELU_APPROXIMATION:
        known = " or ".join(_GELU_APPROXIMATION)
        raise CheckpointError(f"vision activation {known}", repr(activation), "this vision tower is not supported")
    return _GELU_APPROXIMATION[activation]
