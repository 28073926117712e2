"""Frozen dataclasses from untrusted values: every type is checked, lists become tuples, dicts
become groups.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from shared.errors import SpecError, nearest

TOP = ("spec", "training", "recipe")  # what messages leave out in front of a field


def _read_field_types(cls: Any) -> dict[str, Any]:
    """Field -> type of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


field_types: Callable[[Any], dict[str, Any]] = functools.cache(_read_field_types)


def is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def coerce(value: Any, annotation: Any, where: str) -> Any:
    """`value` as `annotation` wants it (lists become tuples, dicts become groups), or
    `SpecError`.
    """
    if type(value) is annotation and annotation in (int, str, bool):
        return value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _coerce_group(value, typing.cast(type, annotation), where)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise SpecError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
    if origin in (typing.Union, types.UnionType):
        return None if value is None else coerce(value, arguments[0], where)
    if origin is tuple:
        if not is_sequence(value):
            raise SpecError(f"{where}: expected a list, found {value!r}")
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            raise SpecError(f"{where}: expected {len(arguments)} values, found {value!r}")
        entries = tuple(
            coerce(v, a, f"{where}[{i}]")
            for i, (v, a) in enumerate(zip(value, arguments, strict=True))
        )
        return value if entries == value and isinstance(value, tuple) else entries
    if annotation is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not annotation:
        raise SpecError(f"{where}: expected {annotation.__name__}, found {value!r}")
    if annotation is float and not math.isfinite(value):
        raise SpecError(f"{where}: expected a finite number, found {value!r}")
    return value


def _coerce_group(value: Any, cls: type, where: str) -> Any:
    fields = field_types(cls)
    if isinstance(value, cls):
        coerced = {
            name: coerce(getattr(value, name), a, f"{where}.{name}") for name, a in fields.items()
        }
        changed = {name: new for name, new in coerced.items() if new is not getattr(value, name)}
        # Not in place: a group may be shared with other specs.
        return dataclasses.replace(typing.cast(Any, value), **changed) if changed else value
    if not isinstance(value, Mapping):
        raise SpecError(f"{where}: expected an object with fields, found {value!r}")
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise SpecError(f"{where} has no field {unknown[0]!r}{nearest(str(unknown[0]), fields)}")
    prefix = "" if where in TOP else f"{where}."
    return cls(**{name: coerce(v, fields[name], prefix + name) for name, v in value.items()})
