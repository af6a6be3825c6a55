"""Bundles of portable graphs: one decode loop over ONNX Runtime on a GPU or over TensorRT for RTX engines."""
