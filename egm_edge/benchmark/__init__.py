"""Measuring latency on the machine at hand: percentiles per stage, identified well enough to be compared."""
