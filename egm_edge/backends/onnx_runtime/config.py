"""EngineConfig: the `model` section of an ONNX Runtime bundle's manifest, validated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from egm_edge.errors import BundleError

KERNEL_HEAD_MULTIPLE = 16  # head sizes that ONNX Runtime's rotary attention takes on the CPU


def kernel_head_dim(head_dim: int) -> int:
    """The head size that attention and the KV cache run at: `head_dim`, padded with zeros where the kernel needs it."""
    return -(-head_dim // KERNEL_HEAD_MULTIPLE) * KERNEL_HEAD_MULTIPLE


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision tower as the host sees it.

    Attributes:
        kind: "qwen3_vl" (position grid and rotary angles are fed by the host) or "internvl3" (patches alone).
        head_dim: vision head size, 0 where the host feeds no angles.
        rope_theta: base of the rotary frequencies.
        deepstack: number of deep-stack features beside the embeddings.
    """

    kind: str
    head_dim: int
    rope_theta: float
    deepstack: int


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything the engine must know beside its graphs.

    Attributes:
        hidden_size, layers, kv_heads, head_dim, vocab_size: decoder dimensions.
        rope_theta, mrope_section: rotary base, and how many of the head_dim / 2 frequencies follow time, height and width
            (interleaved); None for plain RoPE.
        max_positions: longest sequence the checkpoint was made for.
        image_token_id: the pad token that image embeddings replace.
        stop_token_ids: generation ends at any of these.
        embedding_dtype: how embedding.npy stores the table: "float32", "float16", or "bfloat16" as raw uint16 bits.
        rescored_logits: how many of the best logits are recomputed from the (tied) embedding table after a quantized head;
            0 for none.
        vision: the vision tower.
    """

    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    mrope_section: tuple[int, int, int] | None
    max_positions: int
    image_token_id: int
    stop_token_ids: tuple[int, ...]
    embedding_dtype: str
    rescored_logits: int
    vision: VisionConfig

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineConfig:
        """Inverse of `to_dict`; BundleError names every missing or unknown key."""
        _require_keys(cls, values, "model")
        vision = values["vision"]
        if not isinstance(vision, dict):
            raise BundleError("model.vision as an object", type(vision).__name__, "rebuild the bundle")
        _require_keys(VisionConfig, vision, "model.vision")
        section = values["mrope_section"]
        known = dict(values)
        known |= {
            "vision": VisionConfig(**vision),
            "mrope_section": (section[0], section[1], section[2]) if section else None,
            "stop_token_ids": tuple(values["stop_token_ids"]),
        }
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = asdict(self)
        values |= {
            "mrope_section": list(self.mrope_section) if self.mrope_section else None,
            "stop_token_ids": list(self.stop_token_ids),
        }
        return values


def _require_keys(kind: type, values: dict[str, Any], where: str) -> None:
    names = {field.name for field in fields(kind)}
    problems = [f"missing {where}.{name}" for name in sorted(names - values.keys())]
    problems += [f"unknown {where}.{name}" for name in sorted(values.keys() - names)]
    if problems:
        raise BundleError(
            "the model section of an ONNX Runtime bundle", "; ".join(problems), "rebuild the bundle with this egm-edge"
        )
