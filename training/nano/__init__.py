"""EGM-Nano: the small Qwen3-VL that this repository trains from scratch and ships."""
