"""Grounding data as evaluation, calibration and training share it: one row, one reader a format, one picture access."""

from egm_edge.data.rows import Row

__all__ = ["Row"]
