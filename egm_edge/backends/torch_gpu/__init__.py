"""An engine of this project on PyTorch: weights straight from the checkpoint, a static KV cache, steps as CUDA graphs."""
