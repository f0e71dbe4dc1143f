"""ONNX, and its verification against torch."""
