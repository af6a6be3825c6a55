"""The same GRPO run for verl, the distributed engine that upstream used. Nothing of verl is imported; its layout is that of
version 0.9.1, whose own code checks ours in `tests/training_stages/test_verl.py`."""
