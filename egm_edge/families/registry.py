"""Which families there are, by this project's name or by the `model_type` of a checkpoint."""

from __future__ import annotations

from egm_edge.errors import CheckpointError
from egm_edge.families.base import Family
from egm_edge.families.internvl3 import InternVL3
from egm_edge.families.qwen3_vl import Qwen3VL

FAMILIES: tuple[Family, ...] = (Qwen3VL(), InternVL3())
_BY_NAME = {family.model_type: family for family in FAMILIES} | {family.name: family for family in FAMILIES}


def family_for(model_type: str) -> Family:
    """The family of a checkpoint (`model_type` in its config.json) or of a bundle (its family name).

    Raises:
        CheckpointError: unknown; the message lists the allowed values.
    """
    family = _BY_NAME.get(model_type)
    if family is None:
        raise CheckpointError(
            f"model_type {', '.join(sorted(_BY_NAME))}",
            repr(model_type),
            "use a Qwen3-VL checkpoint or the -hf version of an InternVL3 one",
        )
    return family
