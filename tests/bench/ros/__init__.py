"""Measurements of the running node, each in processes of its own: `python -m tests.bench.ros --help`."""
