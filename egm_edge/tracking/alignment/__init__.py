"""Alignment of the grounded look itself: exact on smooth objects, in turning and half hidden, where a filter is coarse."""
