"""RawGraph to Net: one abstract interpretation in topological order.

Three ideas make it short. Dimensions are products of axes (`axes`), so layouts are bookkeeping.
Arithmetic with constants is carried as an affine map and recognised by identity testing when it is
read (`affine`). Glue that closes is recognised by evaluating it (`regions`). What has no word here
becomes a node `Other` with the framework's own name for it; nothing is an error.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.graphs import arithmetic, moves, regions, windows
from shared.graphs.meaning import NoMeaning
from shared.graphs.net import Net, Node, compacted
from shared.graphs.primitives import Raw, RawGraph
from shared.graphs.state import Act, Foreign, LayoutError, State

RULES: dict[str, Callable[[State, Raw], Act]] = arithmetic.RULES | windows.RULES | moves.RULES


def normalise(graph: RawGraph) -> Net:
    """The logical network of a model. The images' layout, where the reader does not know it, is the
    one that the operators agree with.
    """
    layouts = [graph.layout] if graph.layout else ["NHWC", "NCHW"]
    if graph.source in ("torch", "onnx") and not graph.layout:
        layouts.reverse()
    tried = []
    for layout in layouts:
        net, contradictions = _interpreted(graph, layout)
        if not contradictions:
            return net
        tried.append((contradictions, net))
    return min(tried, key=lambda pair: pair[0])[1]


def _interpreted(graph: RawGraph, layout: str) -> tuple[Net, int]:
    """The network, and how many operators the layout contradicts."""
    state, contradictions = State(graph, layout), 0
    for raw in graph.nodes:
        if raw.id not in state.live or not state.is_data(raw.id) or raw.id in state.done:
            if raw.id in state.values and raw.id in state.done:
                regions.recognise(state, raw)  # the exit of a region may be the start of another
            continue
        try:
            state.values[raw.id] = RULES[raw.prim](state, raw)
        except LayoutError:
            contradictions += 1
            state.values[raw.id] = state.opaque(raw, f"{raw.prim} over another layout")
        except Foreign as error:
            state.values[raw.id] = state.opaque(raw, str(error))
        except (NoMeaning, ValueError, IndexError, KeyError, TypeError, ArithmeticError) as error:
            # What a rule has not thought of is not known; the rest of the network still is.
            state.values[raw.id] = state.opaque(raw, f"{raw.prim} ({error})")
        regions.recognise(state, raw)
    output = state.settle(state.values[graph.outputs[0]])
    _name_values(state)
    source = next(node.id for node in state.nodes if node.op == "Input")
    return simplified(compacted(state.nodes, source, output)), contradictions


def _name_values(state: State) -> None:
    """For every node the raw value that is its output: the last, behind a bias that is added."""
    for i, act in sorted(state.values.items()):
        if act.is_plain or act.made is not None:
            made = act.node if act.made is None else act.made
            state.nodes[made].value = (i, act.dims)


def simplified(net: Net) -> Net:
    """Without what changes nothing at inference: dropout, a factor of 1, a term of 0."""
    for node in net.nodes:
        node.ins = [_behind(net, i) for i in node.ins]
        if node.op == "Add":
            terms = [i for i in node.ins if not _is_zero(net.nodes[i])]
            if len(terms) == 1 and net.nodes[terms[0]].size == node.size:
                node.op, node.attrs, node.ins = "Scale", {"scale": 1.0, "shift": 0.0}, terms
    for node in net.nodes:
        node.ins = [_behind(net, i) for i in node.ins]
    return compacted(net.nodes, net.input, _behind(net, net.output))


def is_identity(node: Node) -> bool:
    if node.op == "Scale":
        return node.attrs["scale"] == 1.0 and node.attrs["shift"] == 0.0
    return node.op == "Dropout"


def _is_zero(node: Node) -> bool:
    return node.op == "Scale" and node.attrs["scale"] == node.attrs["shift"] == 0.0


def _behind(net: Net, i: int) -> int:
    while is_identity(net.nodes[i]):
        i = net.nodes[i].ins[0]
    return i
