"""ONNX files, read without ONNX."""
