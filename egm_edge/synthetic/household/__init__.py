"""Household scenes: objects of the shipped pack, rendered once into sprites, composited on tables."""

from egm_edge.synthetic.household.compose import render_household
from egm_edge.synthetic.household.sample import HouseholdScene, sample_household

__all__ = ["HouseholdScene", "render_household", "sample_household"]
