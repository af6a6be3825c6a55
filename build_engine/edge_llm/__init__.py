"""TensorRT Edge-LLM bundles: quantize, export and check on a host without a GPU; build the engine on the device."""
