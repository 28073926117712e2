"""The tensors in what a pickle builds, by the keys that lead to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from shared.formats.containers.archive import MAX_TENSORS
from shared.formats.containers.pickle_arrays import NumpyArray
from shared.formats.containers.pickle_objects import InertObject, InertSet
from shared.formats.containers.pickle_values import PickleRefused, TensorReference
from shared.formats.containers.spans import shown

MAX_DEPTH = 64  # of containers in containers
_MAX_EXTRAS = 64
MAX_LOOKED = 1 << 18  # values, of all paths

_SINGLE = object()  # the key of what an array without axes holds

Leaf = TensorReference | NumpyArray
Parts = list[tuple[Any, Any]]


class _Step(NamedTuple):
    """A value that is to be looked at: its path, whether a module led to it, and the ids of what
    it is in.
    """

    path: str | None
    value: Any
    in_module: bool
    above: tuple[int, ...]


def named_tensors(value: Any) -> dict[str, Leaf]:
    """Every tensor in dicts, lists, tuples and objects, by the keys that lead to it.

    Slashes are between keys; dots between the names of a PyTorch module's parts, which come out as
    those of its state dict. The same container may be reached by many paths, and hold itself: each
    is searched once, none inside itself, and what is looked at is bounded. Raises `PickleRefused`.
    """
    inner = _with_tensors(value)
    found: dict[str, Leaf] = {}
    pending = [_Step(None, value, False, ())]
    for _ in range(MAX_LOOKED):
        if len(found) > MAX_TENSORS:
            raise PickleRefused(f"it has more than {MAX_TENSORS:,} tensors, as no network has")
        if not pending:
            return found
        path, item, in_module, above = pending.pop()
        if is_tensor(item) and path is not None:
            if path in found:
                raise PickleRefused(f"two of its tensors are called {shown(path)}")
            found[path] = item
        elif id(item) in inner and id(item) not in above and len(above) < MAX_DEPTH:
            own = isinstance(item, InertObject) and item.is_module
            for key, part in reversed(inner[id(item)]):
                whole = _joined(path, _text(key, part), "." if own and in_module else "/")
                pending.append(_Step(whole, part, own, (*above, id(item))))
    raise PickleRefused(f"it has more than {MAX_LOOKED:,} values, more than any network")


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor of numbers."""
    return type(value) is TensorReference or (
        type(value) is NumpyArray and value.data is not None and value.numbers is not None
    )


def _joined(path: str | None, name: str | None, separator: str) -> str | None:
    if name is None:
        return path
    return name if path is None else f"{path}{separator}{name}"


def _text(key: Any, value: Any) -> str | None:
    if key is _SINGLE:
        return None
    if type(key) is bytes:
        with contextlib.suppress(UnicodeDecodeError):
            return key.decode()
    if type(key) not in (str, int) and is_tensor(value):
        raise PickleRefused(
            f"a tensor has a key that is a {type(key).__name__}, expected a name or a number"
        )
    return str(key)


def _parts(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds; None of what is none."""
    if isinstance(value, InertObject):
        return value.parts()
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple) and not isinstance(value, InertSet | TensorReference):
        return enumerate(value)
    if type(value) is NumpyArray and isinstance(value.data, list):  # of objects
        return enumerate(value.data) if value.shape else ((_SINGLE, part) for part in value.data)
    return None


def _leads_on(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, part in pairs:
        if is_tensor(part) or _parts(part) is not None:
            yield key, part


def _with_tensors(value: Any) -> dict[int, Parts]:
    """The containers that hold tensors, at whatever depth, by their ids, each with what leads to
    them.
    """
    inner: dict[int, Parts] = {}
    holders: dict[int, list[int]] = {}  # what holds a container
    pending, holding = [value], []
    while pending:
        item = pending.pop()
        pairs = None if id(item) in inner else _parts(item)
        if pairs is None:
            continue
        parts = inner[id(item)] = list(_leads_on(pairs))
        for _, part in parts:
            if is_tensor(part):
                holding.append(id(item))
            else:
                holders.setdefault(id(part), []).append(id(item))
                pending.append(part)
    kept: set[int] = set()
    while holding:
        found = holding.pop()
        if found not in kept:
            kept.add(found)
            holding += holders.get(found, ())
    return {
        key: [pair for pair in inner[key] if is_tensor(pair[1]) or id(pair[1]) in kept]
        for key in kept
    }


def extras(value: Any) -> dict[str, str]:
    """The plain numbers and texts next to the weights: epoch, accuracy, architecture."""
    found: dict[str, str] = {}
    plain_dict = isinstance(value, dict) and not isinstance(value, InertObject)
    for name, item in value.items() if plain_dict else ():
        plain = type(item) in (bool, float) or (type(item) is int and item.bit_length() < 64)
        text = str(item) if plain else item if type(item) is str else ""
        named = type(name) is str and 0 < len(name) <= 80 and name.isprintable()
        if named and 0 < len(text) <= 200 and text.isprintable() and len(found) < _MAX_EXTRAS:
            found[name] = text
    return found
