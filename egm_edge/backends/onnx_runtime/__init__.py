"""ONNX Runtime: the CPU engine."""
