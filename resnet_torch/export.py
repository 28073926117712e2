"""The network as a file that PyTorch alone, or another runtime, runs: through `torch.export`."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from resnet_torch.weights import model_dtype, unwrap
from shared.errors import FrameworkError

IMAGES, OUTPUT = "images", "output"
PROTOBUF = (2 << 30) - (16 << 20)  # bytes of weights in a message, beside its graph
TRACED = (2, 64, 72)  # batch, height and width to trace with, where they are free: all different


def export(model: nn.Module, path: Path, kind: str, size: tuple[int, int] | None = None) -> None:
    """Write the network in evaluation mode to `path`; `model` is left as it was.

    Images are [N, C, H, W], of any number N, and of `size` (height and width), or of any
    size if it is None.
    `kind` is "torch-export", "onnx" or "openvino" (the first two by PyTorch itself, the last by
    OpenVINO). Raises `FrameworkError` for what a file of that kind cannot hold.
    """
    program = exported_program(model, size)
    _WRITERS[kind](program, path)


def exported_program(model: nn.Module, size: tuple[int, int] | None = None) -> ExportedProgram:
    """What `torch.export` makes of the network, without gradients, in PyTorch's default layout."""
    network = unwrap(model)
    copied = copy.deepcopy(network).to("cpu").eval().requires_grad_(False)
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch, height, width = (TRACED[0], *size) if size else TRACED
    dtype = getattr(torch, model_dtype(network))
    example = torch.zeros(batch, network.spec.in_channels, height, width, dtype=dtype)
    free = {0: Dim("batch")} | ({} if size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC})
    with torch.no_grad():
        return torch.export.export(copied, (example,), dynamic_shapes=(free,), strict=False)


def _save(program: ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def _onnx(program: ExportedProgram, path: Path) -> None:
    """The parameters as they are: PyTorch's optimiser would fold norms, unasked. A runtime does so
    when it loads the file.
    """
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size >= PROTOBUF:
        raise FrameworkError(
            f"{size / 2**30:.1f} GiB of weights: an ONNX file holds 2 GiB; use another kind"
        )
    with _quiet():
        exported = torch.onnx.export(
            program,
            (),
            input_names=[IMAGES],
            output_names=[OUTPUT],
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        assert exported is not None  # noqa: S101 - for the type checker
        _without_zero_biases(exported.model)
        exported.save(path, external_data=False)


def _without_zero_biases(model: Any) -> None:
    """Leave out the zeros that the exporter adds where a convolution has no bias, and compute what
    depends on no parameter.
    """
    from onnxscript.optimizer import fold_constants, remove_unused_nodes
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import remove_optional_bias_from_conv_rule

    parameters = set(model.graph.initializers)

    def may_fold(node: Any) -> bool | None:
        names = {value.name for value in node.inputs if value is not None}
        return False if names & parameters else None

    fold_constants(model, should_fold=may_fold)
    rewrite(model, [remove_optional_bias_from_conv_rule])
    remove_unused_nodes(model)


def _openvino(program: ExportedProgram, path: Path) -> None:
    """The parameters as they are, under their own names: `openvino.convert_model` would fold norms,
    unasked. A runtime does so when it compiles the file.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with _quiet():
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(program)
        model = frontend.convert(frontend.load(decoder))
    (images,) = (n for n in program.graph.nodes if n.name in program.graph_signature.user_inputs)
    shape = [n if isinstance(n, int) else -1 for n in images.meta["val"].shape]
    model.inputs[0].get_node().set_partial_shape(openvino.PartialShape(shape))
    model.validate_nodes_and_infer_types()
    model.inputs[0].set_names({IMAGES})
    model.outputs[0].set_names({OUTPUT})
    own = {name.replace(".", "_"): name for name in program.state_dict}
    for node in model.get_ops():
        found = {name.partition(":")[0] for name in node.output(0).get_names()} & set(own)
        if node.get_type_name() == "Constant" and found:
            node.set_friendly_name(own[found.pop()])
    openvino.save_model(model, path, compress_to_fp16=False)  # by default it halves the precision


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters log and warn of that nobody can act upon."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_WRITERS = {"torch-export": _save, "onnx": _onnx, "openvino": _openvino}
