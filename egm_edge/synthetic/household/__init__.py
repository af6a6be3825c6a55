"""Household scenes: objects of the shipped pack, rendered once into sprites, composited on tables."""

from egm_edge.synthetic.household.compose import render_household
from egm_edge.synthetic.household.sample import HouseholdScene, sample_household
from egm_edge.synthetic.household.sprites import build_sprites

__all__ = ["HouseholdScene", "build_sprites", "render_household", "sample_household"]
