"""Decoding: pure functions and small objects over logits. No engine, no model library, no ROS."""

from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent
from egm_edge.decoding.greedy import greedy

__all__ = ["Generation", "Stage", "StopReason", "TokenEvent", "greedy"]
