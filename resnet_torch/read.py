"""A PyTorch model as a raw graph: `nn.Module`, `ExportedProgram`, `.pt2` and TorchScript.

The graph is that of `torch.export`: ATen operators with the user's module paths and source lines.
What is decided about it is decided in `shared.graphs`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from resnet_torch.aten import shape_of
from resnet_torch.exported_graph import array_of, graph_of, is_own
from shared.errors import FrameworkError
from shared.graphs.primitives import BATCH, Array, RawGraph

SIZES = (224, 32, 64, 299)  # to try where a model takes no images of its usual size
LOGITS = ("logits", "out", "output", "predictions")  # what the classifier's output is called


def read_graph(model: Any, image_size: int | None = None) -> RawGraph:
    """The graph of a module or an exported program for two images of `image_size` pixels, by
    default the size that the model says, else 224, or 32 where the first convolution has no stride.

    The module is left as it is: it is read in evaluation mode, in float64 where it runs in that.
    Raises `FrameworkError` where it cannot be traced, with the reason and the line.
    """
    if image_size is not None:
        return _read(model, image_size)
    problem: FrameworkError | None = None
    for size in dict.fromkeys((usual_size(model), *SIZES)):
        try:
            return _read(model, size)
        except FrameworkError as error:
            problem = problem or error
    raise problem or FrameworkError("this model cannot be traced")


def _read(model: Any, size: int) -> RawGraph:
    if isinstance(model, ExportedProgram):
        return _read_program(model, size)
    if isinstance(model, torch.jit.ScriptModule):
        return _read_script(model, size)
    own = {name: tensor.detach() for name, tensor in _states(model).items()}
    problem: FrameworkError | None = None
    for dtype in (torch.float64, None):
        with _evaluating(model, dtype):
            example = _example(model, size)
            try:
                program = _export(model, example)
            except FrameworkError as error:
                problem = problem or error
                continue
            graph = graph_of(program, size, own)
        graph.run = _runner(model, dtype)
        graph.dtype = str(example.dtype).removeprefix("torch.")
        return graph
    raise problem or FrameworkError("this model cannot be traced")


def usual_size(model: Any) -> int:
    """Pixels of the images that a model is meant for."""
    for owner in (model, getattr(model, "config", None)):
        for name in ("pretrained_cfg", "default_cfg"):
            given = getattr(owner, name, None)
            if isinstance(given, dict) and given.get("input_size"):
                return int(given["input_size"][-1])
    first = next((m for m in _modules(model) if isinstance(m, nn.Conv2d)), None)
    return 32 if first is not None and tuple(first.stride) == (1, 1) else 224


def _modules(model: Any) -> Iterator[nn.Module]:
    return model.modules() if isinstance(model, nn.Module) else iter(())


def _states(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those too that are not saved."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@contextlib.contextmanager
def _evaluating(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Evaluation mode, with floating tensors in another dtype; afterwards all is as it was, bit by
    bit. A copy would not do: a function in a model may know the model itself.
    """
    modes = {module: module.training for module in model.modules()}
    parameters = {p: p.data for p in model.parameters() if dtype and p.is_floating_point()}
    buffers = [
        (module, name, tensor)
        for module in model.modules()
        for name, tensor in module._buffers.items()
        if dtype and tensor is not None and tensor.is_floating_point()
    ]
    shared = {id(tensor): tensor.to(dtype) for _, _, tensor in buffers}
    try:
        model.eval()
        for parameter, data in parameters.items():
            parameter.data = data.to(dtype)
        for module, name, tensor in buffers:
            module._buffers[name] = shared[id(tensor)]
        yield
    finally:
        for parameter, data in parameters.items():
            parameter.data = data
        for module, name, tensor in buffers:
            module._buffers[name] = tensor
        for module, mode in modes.items():
            module.training = mode


def _example(model: nn.Module, size: int) -> Tensor:
    """Images of the model's dtype and channels."""
    kernel = next((p for p in model.parameters() if p.dim() == 4), None)
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    if first is None and kernel is not None:
        channels = kernel.shape[1]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.zeros(BATCH, channels, size, size, dtype=dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that PyTorch logs and prints where a size or a number does not fit: the
    error says it.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _export(model: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(model, (example,), strict=False)
    except Exception as error:  # noqa: BLE001 - a user's model may raise anything
        raise FrameworkError(f"PyTorch cannot trace it: {_said(error)}") from None


def _said(error: Exception) -> str:
    """The first line of an error, with the user's own line where it has one."""
    text = str(error).strip()
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    places = re.findall(r'File "([^"]+)", line (\d+)', text)
    own = [f"{Path(file).name}:{line}" for file, line in places if is_own(file)]
    if not own:
        own = list(_traceback_places(error))
    at = f" at {own[-1]}" if own else ""
    return f"{type(error).__name__}{at}: {first[:200]}"


def _traceback_places(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if is_own(file) and "resnet_torch" not in file:
            yield f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next


def _runner(model: nn.Module, dtype: torch.dtype | None) -> Any:
    def run(images: Array) -> Array:
        with _evaluating(model, dtype), torch.no_grad():
            nchw = np.ascontiguousarray(np.transpose(images, (0, 3, 1, 2)))
            example = _example(model, 1)
            return array_of(_first_output(model(torch.from_numpy(nchw).to(example.dtype))))

    return run


def _first_output(found: Any) -> Tensor:
    """The logits among the outputs of a model."""
    if isinstance(found, Tensor):
        return found
    if isinstance(found, dict) or hasattr(found, "keys"):
        name = next((name for name in LOGITS if name in found), next(iter(found)))
        return _first_output(found[name])
    return _first_output(_chosen(list(found)))


def _chosen(outputs: list[Any]) -> Any:
    """Of several tensors, the first that is [images, classes], else the last."""
    flat = [x for x in outputs if isinstance(x, Tensor) and x.dim() == 2]
    return flat[0] if flat else outputs[-1]


# Programs.


def _read_program(program: ExportedProgram, size: int) -> RawGraph:
    image = next(
        node
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    )
    module = program.module()
    if shape_of(image)[-1] != size:
        example = torch.zeros(*shape_of(image)[:2], size, size, dtype=image.meta["val"].dtype)
        program = _export_again(module, example)
    graph = graph_of(program, size, {})
    graph.dtype = str(image.meta["val"].dtype).removeprefix("torch.")

    def run(images: Array) -> Array:
        nchw = np.ascontiguousarray(np.transpose(images, (0, 3, 1, 2)))
        with torch.no_grad():
            return array_of(
                _first_output(module(torch.from_numpy(nchw).to(image.meta["val"].dtype)))
            )

    graph.run = run
    return graph


def _export_again(module: nn.Module, example: Tensor) -> ExportedProgram:
    """An exported program for another size; refused where it was exported for one alone."""
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(module, (example,), strict=False)
    except Exception as error:  # noqa: BLE001 - guards raise what they like
        side = example.shape[-1]
        raise FrameworkError(
            f"the program takes no images of {side} x {side} pixels: {_said(error)}"
        ) from None


def _read_script(model: torch.jit.ScriptModule, size: int) -> RawGraph:
    from torch._export.converter import TS2EPConverter  # `torch.export` refuses TorchScript

    example = _example(model, size)
    try:
        program = TS2EPConverter(model, (example,), {}).convert()
    except Exception as error:  # noqa: BLE001 - as in `_export`
        try:  # without the branches for training, and without the names of parameters
            frozen = torch.jit.freeze(copy.deepcopy(model).eval(), optimize_numerics=False)
            program = TS2EPConverter(frozen, (example,), {}).convert()
        except Exception:  # noqa: BLE001 - as in `_export`
            raise FrameworkError(f"PyTorch cannot convert it: {_said(error)}") from None
    graph = graph_of(program, size, _states(model))
    graph.run = _runner(model, None)
    graph.dtype = str(example.dtype).removeprefix("torch.")
    return graph


def prepare() -> None:
    """Load all of PyTorch that `load` and `read_graph` need, while this process may still look for
    a temporary folder and the like.
    """
    tempfile.gettempdir()
    importlib.import_module("torch._export.converter")
    torch.export.export(nn.ReLU(), (torch.zeros(1),), strict=False)


def load(path: str) -> Any:
    """A `.pt2` or TorchScript file. Both can hold code: call this where that may run.

    Raises `FrameworkError` for what is neither.
    """
    try:
        if path.endswith(".pt2"):
            return torch.export.load(path)
        return torch.jit.load(path, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - as above
        raise FrameworkError(f"{path}: PyTorch cannot load it: {_said(error)}") from None
