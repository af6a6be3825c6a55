"""ModelOpt's quantized checkpoints: calibrated on grounding requests, saved, checked against the original.

Shared by every compiler whose runtime loads such a checkpoint or is built from one.
"""
