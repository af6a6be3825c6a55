"""Grounding data: one row type, adapters that read the public formats into it, and what is done to rows before training."""

from training.data.rows import Row

__all__ = ["Row"]
