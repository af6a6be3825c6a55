"""Decoding: pure functions and small objects over logits. No engine, no model library, no ROS."""

from egm_edge.decoding.deadline.budget import Budget
from egm_edge.decoding.events import Generation, Stage, StopReason, TokenEvent
from egm_edge.decoding.generate import Decoder
from egm_edge.decoding.options import DecodingKeywords, DecodingOptions

__all__ = [
    "Budget",
    "Decoder",
    "DecodingKeywords",
    "DecodingOptions",
    "Generation",
    "Stage",
    "StopReason",
    "TokenEvent",
]
