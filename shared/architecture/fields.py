"""Frozen dataclasses from untrusted values: every type is checked, lists become tuples, dicts
become groups.

`CheckedDataclass` is the base of everything that a person writes or a file holds: specs, training
configurations, recipes.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from shared.errors import SpecError, nearest


class CheckedDataclass:
    """Base of a frozen dataclass whose fields are checked when it is made, and which JSON can hold.

    Every field gets exactly the type of its annotation, or `SpecError` names it. A subclass with
    rules of its own extends `__post_init__`.
    """

    label: ClassVar[str]  # what messages call the whole
    prefix: ClassVar[str] = ""  # what messages put in front of the name of a field

    def __post_init__(self) -> None:
        for name, annotation in field_types(type(self)).items():
            value = coerce(getattr(self, name), annotation, f"{self.prefix}{name}")
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, as JSON has them."""
        return json.loads(json.dumps(dataclasses.asdict(typing.cast(Any, self))))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` gave; fields that are missing keep their defaults. Raises `SpecError`."""
        return coerce(data, cls, cls.prefix.rstrip("."))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` gave. Raises `SpecError`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also of too many digits
            raise SpecError(f"{cls.label} is not JSON: {error}") from None
        return cls.from_dict(data)


def require(condition: bool, where: str, value: Any, allowed: str) -> None:
    """Raise `SpecError` for a value that is not allowed."""
    if not condition:
        raise SpecError(f"{where} = {value}: {allowed}")


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
    if annotation is Any or (type(value) is annotation and annotation in (int, str, bool)):
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
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise SpecError(f"{where}: expected an object with fields, found {value!r}")
        return {key: coerce(v, arguments[1], f"{where}.{key}") for key, v in value.items()}
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
        if isinstance(value, CheckedDataclass):
            return value
        coerced = {
            name: coerce(getattr(value, name), a, f"{where}.{name}") for name, a in fields.items()
        }
        changed = {name: new for name, new in coerced.items() if new is not getattr(value, name)}
        # Not in place: a group may be shared with other specs.
        return dataclasses.replace(typing.cast(Any, value), **changed) if changed else value
    what = where or getattr(cls, "label", cls.__name__)
    if not isinstance(value, Mapping):
        raise SpecError(f"{what}: expected an object with fields, found {value!r}")
    unknown = sorted(map(str, set(value) - set(fields)))
    if unknown:
        raise SpecError(f"{what} has no field {unknown[0]!r}{nearest(unknown[0], fields)}")
    missing = [name for name in _required_fields(cls) if name not in value]
    if missing:
        raise SpecError(f"{what} lacks the field {missing[0]!r}")
    prefix = f"{where}." if where else ""
    return cls(**{name: coerce(v, fields[name], prefix + name) for name, v in value.items()})


def _required_fields(cls: Any) -> list[str]:
    """The fields without a default."""
    none = dataclasses.MISSING
    return [
        f.name for f in dataclasses.fields(cls) if f.default is none and f.default_factory is none
    ]
