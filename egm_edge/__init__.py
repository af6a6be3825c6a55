"""egm-edge: language-guided boxes on a robot's own computer."""

__version__ = "0.1.0"
