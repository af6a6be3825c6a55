"""What ModelOpt saved, held against what was asked: `hf_quant_config.json` against the tensors, tensor by tensor.

A recipe that matched no layer still writes a checkpoint, and a runtime believes the description: a layer that it calls packed
is read as packed. Reads headers only, no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import safe_open

from build_engine.modelopt.recipe import MIXED, VISION_ALGORITHM, Recipe
from build_engine.precisions import PRECISIONS
from egm_edge.errors import BuildError

DESCRIPTION = "hf_quant_config.json"
_VISION = re.compile(r"(^|\.)(visual|vision_tower|multi_modal_projector)\.")
_DECODER = re.compile(r"(^|\.)language_model\.(?:model\.)?layers\.\d+\.(self_attn|mlp)\.\w+_proj$")
_FP8 = PRECISIONS["fp8"].recipe
_HINT = "report this with the versions of `egm build --json`"


@dataclass(frozen=True, slots=True)
class _Module:
    """A module with a matrix: how its weight is stored, and the shape; which scales lie beside it."""

    stored: str
    shape: tuple[int, ...]
    scales: frozenset[str]

    @property
    def packed(self) -> bool:
        return "weight_scale" in self.scales


def require_quantized(folder: Path, recipe: Recipe, *, vision: bool, int4_tile: int) -> None:
    """Every linear layer of the decoder packed as `recipe` says, the vision tower and the head as asked, and both descriptions
    (hf_quant_config.json, config.json) saying the same.

    Args:
        int4_tile: INT4 layers whose sides are no multiples of it may stay unpacked.

    Raises:
        BuildError: naming the first layer or field that differs.
    """
    stated = _json(folder / DESCRIPTION).get("quantization", {})
    inner = _json(folder / "config.json").get("quantization_config", {})
    algorithm = recipe.quant_algo(vision)
    _require(f"quant_algo {algorithm} in {DESCRIPTION}", stated.get("quant_algo"), algorithm)
    _require("quant_method modelopt in config.json", inner.get("quant_method"), "modelopt")
    _require(f"quant_algo {algorithm} in config.json", inner.get("quant_algo"), algorithm)
    modules = _modules(folder)
    for name, module in modules.items():
        if _DECODER.search(name):
            free = recipe.name == "int4_awq" and any(side % int4_tile for side in module.shape)
            _require_packed(name, module, None if free and not module.packed else recipe)
        elif _VISION.search(name):
            _require_packed(name, module, _FP8 if vision and module.packed else None)
        else:
            _require_packed(name, module, None)
    tower = [module for name, module in modules.items() if _VISION.search(name)]
    if vision and not any(module.packed for module in tower):
        raise BuildError("a vision tower quantized in FP8", "all of it in high precision", _HINT)
    _require_described(stated, modules, recipe)


def _require_described(stated: Mapping[str, Any], modules: Mapping[str, _Module], recipe: Recipe) -> None:
    """The description excludes exactly what is not packed, the head and the vision tower among it."""
    if stated["quant_algo"] == MIXED:
        listed = {name: row.get("quant_algo") for name, row in stated.get("quantized_layers", {}).items()}
        for name, module in modules.items():
            expected = (VISION_ALGORITHM if _VISION.search(name) else recipe.algorithm) if module.packed else None
            _require(f"{name} described as {expected or 'not quantized'}", listed.get(name), expected)
        return
    patterns = [str(pattern) for pattern in stated.get("exclude_modules") or []]
    for name, module in [*modules.items(), ("lm_head", _Module("", (), frozenset()))]:
        excluded = any(fnmatchcase(name, pattern) for pattern in patterns)
        if excluded == module.packed:
            what = "described as quantized" if module.packed else "among exclude_modules"
            raise BuildError(f"{name} {what} in {DESCRIPTION}", f"exclude_modules {', '.join(patterns)}", _HINT)
    if recipe.multiple > 1:
        _require(f"group_size {recipe.multiple} in {DESCRIPTION}", stated.get("group_size"), recipe.multiple)


def _require_packed(name: str, module: _Module, recipe: Recipe | None) -> None:
    if recipe is None:
        if module.packed or module.stored not in ("F16", "BF16", "F32"):
            raise BuildError(f"{name} in high precision", f"{module.stored} with {', '.join(sorted(module.scales))}", _HINT)
        return
    _require(f"{name} stored as {recipe.stored}", module.stored, recipe.stored)
    missing = [scale for scale in recipe.scales if scale not in module.scales]
    if missing:
        raise BuildError(f"{', '.join(recipe.scales)} beside {name}.weight", f"no {', '.join(missing)}", _HINT)
    if "pre_quant_scale" in module.scales and not recipe.smoothed:
        raise BuildError(f"no pre_quant_scale beside {name}.weight", "one: AWQ smoothed this layer too", _HINT)


def _modules(folder: Path) -> dict[str, _Module]:
    """Modules with a weight of two sides or more, by name."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "np") as file:
            names |= set(file.keys())
            for key in file.keys():
                if key.endswith(".weight"):
                    part = file.get_slice(key)
                    found[key.removesuffix(".weight")] = (str(part.get_dtype()), tuple(part.get_shape()))
    scales = {name: frozenset(s for s in _SCALES if f"{name}.{s}" in names) for name in found}
    return {name: _Module(stored, shape, scales[name]) for name, (stored, shape) in found.items() if len(shape) > 1}


_SCALES = ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale")


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path.name} of the quantized checkpoint", str(error)[:200], _HINT) from None
    return values if isinstance(values, dict) else {}


def _require(expected: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise BuildError(expected, str(found), _HINT)
