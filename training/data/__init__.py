"""Grounding data for training: adapters of public formats to `egm_edge.data.Row`, and what is done to rows before training."""
