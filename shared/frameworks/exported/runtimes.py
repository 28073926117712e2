"""How each kind of file is run, by what is made to run it and nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

Array = np.ndarray
Run = Callable[[Array], Array]


def opened(kind: str, path: Path, dtype: str) -> Run:
    """A file as a function of images in its own layout and dtype.

    The runtime's package is imported here; what it raises is not caught.
    """
    return _RUNTIMES[kind](path, dtype)


def run(function: Run, layout: str, images: Array, dtype: str) -> Array:
    """What an opened file computes of images [N, H, W, C], with the channels last."""
    own = np.ascontiguousarray(images if layout == "NHWC" else np.moveaxis(images, -1, 1), dtype)
    found = np.asarray(function(own))
    if found.dtype != np.dtype(dtype):
        raise TypeError(f"the file returned {found.dtype}, expected {dtype}")
    return np.moveaxis(found, 1, -1) if found.ndim == 4 and layout == "NCHW" else found


def _torch_export(path: Path, dtype: str) -> Run:
    import torch

    module = torch.export.load(path).module()

    def run(images: Array) -> Array:
        with torch.no_grad():
            return module(torch.from_numpy(images)).numpy()

    return run


def _onnx(path: Path, dtype: str) -> Run:
    """ONNX Runtime; its convolutions know no float64, and there the reference evaluator of the
    package `onnx` runs, which is NumPy.
    """
    if dtype == "float64":
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(path))
        given: str = evaluator.input_names[0]

        def evaluate(images: Array) -> Array:
            (found,) = evaluator.run(None, {given: images})
            return np.asarray(found)

        return evaluate
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {name: images})[0])


def _saved_model(path: Path, dtype: str) -> Run:
    import tensorflow

    loaded = tensorflow.saved_model.load(str(path))  # which keeps the variables alive
    function = loaded.signatures["serving_default"]
    (name,) = function.structured_input_signature[1]

    def run(images: Array) -> Array:
        (output,) = function(**{name: tensorflow.constant(images)}).values()
        return output.numpy()

    run.loaded = loaded  # type: ignore[attr-defined]
    return run


def _stablehlo(path: Path, dtype: str) -> Run:
    import jax

    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))


def _openvino(path: Path, dtype: str) -> Run:
    """With its precision said: by default it may compute in bfloat16 where the processor can."""
    import openvino

    core = openvino.Core()
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(path), "CPU", hint)
    return lambda images: compiled(images)[0].copy()


def _litert(path: Path, dtype: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    def run(images: Array) -> Array:
        interpreter = Interpreter(str(path))
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], images.shape, strict=True)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return run


_RUNTIMES: dict[str, Callable[[Path, str], Run]] = {
    "torch-export": _torch_export,
    "onnx": _onnx,
    "saved-model": _saved_model,
    "stablehlo": _stablehlo,
    "openvino": _openvino,
    "litert": _litert,
}
