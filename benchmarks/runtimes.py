"""Runtimes that a trained network is deployed with, as peers of `inference()`: those that are
installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

Run = Callable[[], object]


def runtimes(model: nn.Module, images: torch.Tensor) -> Iterator[tuple[str, Run]]:
    """The model in evaluation mode on `images` [N, C, H, W], by each runtime's name."""
    model = model.eval()
    if _installed("onnxruntime", "onnx", "onnxscript"):
        yield "ONNX Runtime", _onnx_runtime(model, images)
    if _installed("openvino"):
        yield "OpenVINO, float32", _openvino(model, images)


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _onnx_runtime(model: nn.Module, images: torch.Tensor) -> Run:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(model, (images,), file, dynamo=True, external_data=False)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, inputs)


def _openvino(model: nn.Module, images: torch.Tensor) -> Run:
    import openvino

    converted = openvino.convert_model(model, example_input=images)
    converted.reshape(list(images.shape))
    # Where the processor has it, OpenVINO computes in bfloat16 unless told otherwise.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(converted, "CPU", precision)
    request, array = compiled.create_infer_request(), images.numpy()
    return lambda: request.infer([array])
