"""The names of variables in TensorFlow 2's checkpoints, whose keys are paths through Python objects
(`model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE`).

The object graph that is stored beside them has the variables' own names (`conv1_conv/kernel`),
which are taken where the paths only count layers, and names tell all variables apart. Source:
tensorflow, `core/protobuf/trackable_object_graph.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from shared.formats.containers.protobuf import Source

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = "/.OPTIMIZER_SLOT/"
_OPTIMIZER = "optimizer"
_OPTIMIZERS = re.compile(rf"(?:^|/)_?{_OPTIMIZER}(?:/|$)")
_WEIGHTS = re.compile(rf"(?:^|/)_?{_OPTIMIZER}/_(?:non_)?trainable_variables/\d+$")
# Where Keras counts what it holds. Attributes of a program's own classes tell more than the names
# that Keras gives to layers in them.
_COUNTED = re.compile(
    r"(^|/)(layer(_with_weights)?-\d+|_operations/\d+|_?(all_|(non_)?trainable_)?variables/\d+)/"
)
_ESCAPES = ((".S", "/"), ("..", "."))  # of keys: a slash in an attribute's name
_MAX_NODES = 1 << 16
_MAX_NAME = 512  # characters

Same = Callable[[str, str], bool]  # whether the tensors of two keys are equal


def shown_names(keys: Sequence[str], graph: Source | None, same: Same) -> dict[str, str]:
    """Key -> name of every tensor that an archive shall have, in the order of the objects.

    Two keys of one name are one variable if their tensors are equal and different objects at the
    top hold them: an exported model of Keras has each weight twice. Names of an optimizer's
    variables start with `optimizer/`.
    """
    if graph is None:
        return {key: key for key in keys}
    known = set(keys)
    full = {key: name for key, name in _full_names(graph) if key in known}
    ordered = [*full, *(key for key in keys if key not in full)]
    plain = {key: _plain(key) for key in ordered}
    state = {key for key in ordered if _is_state(key)}
    own_names = [
        {key: full.get(key, "") for key in ordered},
        {key: f"{key.partition('/')[0]}/{full[key]}" if full.get(key) else "" for key in ordered},
    ]
    weights = [key for key in ordered if key not in state]
    counted = sum(_COUNTED.search(key) is not None for key in weights)
    for named in [*own_names, plain] if 2 * counted > len(weights) else [plain, *own_names]:
        chosen = _unique(
            {
                key: f"{_OPTIMIZER}/{name or plain[key]}" if key in state else name
                for key, name in named.items()
            },
            state,
            same,
        )
        if chosen is not None:
            return chosen
    return {key: key for key in keys}


def _unique(names: dict[str, str], state: Iterable[str], same: Same) -> dict[str, str] | None:
    """The names, once for each variable; None where one is missing or is that of two variables."""
    found: dict[str, str] = {}  # name -> key
    state = set(state)
    for key, name in names.items():
        if key in state:  # of which nobody needs the names
            continue
        if not name or not name.isprintable() or len(name) > _MAX_NAME:
            return None
        if name in found:
            if found[name].partition("/")[0] == key.partition("/")[0] or not same(found[name], key):
                return None
            continue
        found[name] = key
    taken = set(found)
    kept = {key: name for name, key in found.items()}
    for key, name in names.items():
        if key in state:
            other = name if name not in taken else f"{_OPTIMIZER}/{_plain(key)}"
            if other in taken:
                return None
            taken.add(other)
            kept[key] = other
    return {key: kept[key] for key in names if key in kept}


def _is_state(key: str) -> bool:
    path = key.removesuffix(_SUFFIX)
    return _SLOT in key or (_OPTIMIZERS.search(path) is not None and _WEIGHTS.search(path) is None)


def _plain(key: str) -> str:
    """A key without what TensorFlow adds to it."""
    *parts, last = key.removesuffix(_SUFFIX).split("/")
    path = "/".join((*parts, last.removeprefix("_") or last))
    for escaped, plain in _ESCAPES:
        path = path.replace(escaped, plain)
    return path


def _full_names(graph: Source) -> list[tuple[str, str]]:
    """(key, name) of all variables, in the order of the objects."""
    found = []
    for count, node in enumerate(graph.fields()):
        if count > _MAX_NODES:
            raise graph.fail(f"its object graph has more than {_MAX_NODES:,} objects")
        if node.number != 1:
            continue
        for field in graph.inside(node):
            if field.number != 2:
                continue
            graph.size_of(field)
            attribute = graph.single(field.start, field.end)
            texts = [
                graph.text(attribute[number], 4 * _MAX_NAME) if number in attribute else ""
                for number in (3, 2)
            ]
            if texts[0]:
                found.append((texts[0], texts[1]))
    return found
