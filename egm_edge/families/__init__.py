"""Model families: prompt texts, image tokens, position ids."""

from egm_edge.families.base import Family, PromptSpec
from egm_edge.families.prompts import encode_prompt, encode_user_text
from egm_edge.families.registry import FAMILIES, family_for

__all__ = ["FAMILIES", "Family", "PromptSpec", "encode_prompt", "encode_user_text", "family_for"]
