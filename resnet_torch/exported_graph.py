"""An exported program of PyTorch as a raw graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from resnet_torch import aten_arithmetic, aten_layers
from resnet_torch.aten import AtenReader, Value, is_view, shape_of, writes
from shared.errors import FrameworkError
from shared.graphs.primitives import Array, RawGraph

INLINE = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
RULES = aten_layers.RULES | aten_arithmetic.RULES


def graph_of(program: ExportedProgram, size: int, own: dict[str, Tensor]) -> RawGraph:
    """`own` has the parameters in the model's own dtype, by name."""
    program, remark = _functional(program)
    graph = RawGraph("torch", size, "NCHW")
    graph.remarks += [remark] if remark else []
    reader = AtenReader(graph, RULES)
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    state = {**program.state_dict, **program.constants}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            reader.values[node] = _placeholder(graph, node, names, state, own)
            if node.name in names:
                reader.tensors[node] = state[names[node.name]]
        elif node.op == "output":
            graph.outputs = _outputs(reader, node, signature, graph)
        else:
            _read(reader, node, program.graph_module)
    return graph


def _read(reader: AtenReader, node: Node, owner: GraphModule) -> None:
    """The value of one node of a graph of `owner`."""
    if node.op == "get_attr":
        found = _attribute(owner, node)
        if not isinstance(found, GraphModule):
            reader.values[node] = reader.graph.const(array_of(found))
    elif str(node.target) in INLINE:
        reader.values[node] = _inlined(reader, node, owner)
    else:
        reader.values[node] = _call(reader, node)


def _attribute(owner: GraphModule, node: Node) -> Any:
    found: Any = owner
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def _inlined(reader: AtenReader, node: Node, owner: GraphModule) -> list[int]:
    """What is computed under `no_grad` or `autocast`, which is a graph of its own."""
    at = next(k for k, x in enumerate(node.args) if isinstance(x, Node) and x.op == "get_attr")
    inner = _attribute(owner, node.args[at])  # type: ignore[arg-type]
    given = iter(node.args[at + 1 :])
    for each in inner.graph.nodes:
        if each.op == "placeholder":
            source = next(given)
            reader.values[each] = reader.values[source]  # type: ignore[index]
            if source in reader.tensors:
                reader.tensors[each] = reader.tensors[source]  # type: ignore[index]
        elif each.op == "output":
            return [reader.id_of(x) for x in each.args[0]]
        else:
            _read(reader, each, inner)
    return []


def _placeholder(
    graph: RawGraph,
    node: Node,
    names: dict[str, str],
    state: dict[str, Any],
    own: dict[str, Tensor],
) -> int:
    name = names.get(node.name)
    if name is None:
        value = node.meta.get("val")
        return graph.input(shape_of(node) if isinstance(value, Tensor) else (), node.name)
    tensor = own.get(name, state[name])
    named = None if name.startswith("lifted_tensor") else name
    return graph.const(array_of(tensor), named, name.rpartition(".")[0])


def _call(reader: AtenReader, node: Node) -> Value:
    if str(node.target) == "<built-in function getitem>":
        source, index = node.args
        several = reader.values[source]  # type: ignore[index]
        return several[index] if isinstance(several, list) else several  # type: ignore[index]
    value = node.meta.get("val")
    if not isinstance(value, (Tensor, list, tuple)):  # a size, or nothing
        number: Any = getattr(getattr(value, "node", None), "hint", value)
        if number is None and value is not None:
            ins = [reader.id_of(x) for x in node.all_input_nodes]
            place = {"where": _where(node), "line": _line(node)}
            return reader.graph.opaque("a number that the images decide", ins, (), **place)
        return reader.graph.const(0 if number is None else number)
    found = reader.read(node, _where(node), _line(node))
    if writes(node) and isinstance(node.args[0], Node):
        reader.values[node.args[0]] = found  # in place: who reads the input later reads this
    return found


def _outputs(reader: AtenReader, node: Node, signature: Any, graph: RawGraph) -> list[int]:
    """What the model returns, the logits first."""
    pairs = zip(node.args[0], signature.output_specs, strict=True)  # type: ignore[arg-type]
    given = [x for x, spec in pairs if spec.kind.name == "USER_OUTPUT" and isinstance(x, Node)]
    if not given:
        raise FrameworkError("the model returns no tensor")
    if len(given) > 1:
        flat = [x for x in given if len(shape_of(x)) == 2]
        first = flat[0] if flat else given[-1]
        graph.remarks.append(
            f"the model returns {len(given)} tensors; the one of {list(shape_of(first))} is read"
        )
        given = [first, *(x for x in given if x is not first)]
    return [reader.id_of(x) for x in given]


def _where(node: Node) -> str:
    """The path of the module that computes it; of the model itself, its class."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path, kind = list(stack.values())[-1]
    return path or str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def _line(node: Node) -> str:
    """The user's own line, as file:line."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [f"{Path(file).name}:{line}" for file, line in frames if is_own(file)]
    return own[-1] if own else ""


def _functional(program: ExportedProgram) -> tuple[ExportedProgram, str]:
    """Without writes into views, which the graph's order alone does not show; and a remark where
    they remain.
    """
    if not _writes_into_views(program):
        return program, ""
    try:
        return program.run_decompositions({}), ""
    except Exception:  # noqa: BLE001 - PyTorch 2.13 asserts where a norm is in training mode
        return program, "PyTorch could not take the writes in place out of the graph"


def _writes_into_views(program: ExportedProgram) -> bool:
    for node in program.graph.nodes:
        if node.op == "call_function" and writes(node) and isinstance(node.args[0], Node):
            target = node.args[0]
            if is_view(target) or any(is_view(user) for user in target.users):
                return True
    return False


def array_of(tensor: Tensor) -> Array:
    """In its own dtype; half precision, which NumPy lacks, in float32."""
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy()


def is_own(file: str) -> bool:
    """Whether a frame is in neither PyTorch nor something generated."""
    return "/torch/" not in file and not file.startswith("<")
