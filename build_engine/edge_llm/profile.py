"""EngineProfile: the shapes that an Edge-LLM engine is built for, from PixelSpec and token limits.

A picture with more tokens than the profile is shrunk silently by the runtime, so the profile is never smaller than what the
bundle's PixelSpec lets through, and the PixelSpec never larger than what the device's profile may be.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from build_engine.memory_plan import EngineLimits, max_image_tokens
from build_engine.targets import Target
from egm_edge.errors import BuildError
from egm_edge.pixels import TILES, PixelSpec

# NVIDIA's own limits for the vision engine: 2,048 image tokens on Orin Nano and NX, 16,384 elsewhere.
SMALL_DEVICES = ("jetson-orin-nano", "jetson-orin-nx")
MAX_IMAGE_TOKENS = 16384
MAX_IMAGE_TOKENS_SMALL = 2048
DEFAULT_IMAGE_TOKENS = 2048  # a 1920x1080 frame of Qwen3-VL, or seven tiles of InternVL3 and their thumbnail


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Arguments of the engine builder.

    Attributes:
        max_input_len: prompt tokens, image included. max_kv_cache_capacity: prompt and reply, whole pages.
    """

    max_input_len: int
    max_kv_cache_capacity: int
    max_batch_size: int
    min_image_tokens: int
    max_image_tokens: int
    max_image_tokens_per_image: int

    @classmethod
    def of(cls, spec: PixelSpec, max_new_tokens: int, batch: int) -> EngineProfile:
        limits = EngineLimits.of(spec, max_new_tokens, batch)
        smallest = spec.tokens_per_tile if spec.rule == TILES else 4
        return cls(
            max_input_len=limits.input_tokens,
            max_kv_cache_capacity=limits.kv_tokens,
            max_batch_size=batch,
            min_image_tokens=min(smallest, limits.image_tokens),
            max_image_tokens=limits.image_tokens * batch,
            max_image_tokens_per_image=limits.image_tokens,
        )

    def flags(self) -> list[str]:
        """As `tensorrt-edgellm-build` takes them."""
        return [part for name, value in asdict(self).items() for part in (f"--{name.replace('_', '-')}", str(value))]


def fitted_spec(spec: PixelSpec, max_pixels: int | None, target: Target) -> PixelSpec:
    """The bundle's PixelSpec: what was asked, else the checkpoint's own up to DEFAULT_IMAGE_TOKENS.

    Raises:
        BuildError: more image tokens were asked than the device's vision engine takes.
    """
    unit = spec.tile_size**2 // spec.tokens_per_tile if spec.rule == TILES else (spec.patch_size * spec.merge_size) ** 2
    if max_pixels is None:
        fitted = spec.with_max_pixels(DEFAULT_IMAGE_TOKENS * unit) if max_image_tokens(spec) > DEFAULT_IMAGE_TOKENS else spec
    else:
        fitted = spec.with_max_pixels(max_pixels)
    most = MAX_IMAGE_TOKENS_SMALL if target.name in SMALL_DEVICES else MAX_IMAGE_TOKENS
    if (found := max_image_tokens(fitted)) > most:
        raise BuildError(
            f"at most {most} image tokens on {target.name}", f"{found}", f"pass --max-pixels {most * unit}"
        )
    return fitted
