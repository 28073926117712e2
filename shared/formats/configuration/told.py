"""`Told`: what one part of a file says about the network that no tensor tells.

Nothing of it is overruled in silence: what the tensors, another part of the file or the caller
contradict is an error that names both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.architecture.spec import ResNetSpec
from shared.formats.configuration.keras_layers import shown_value
from shared.naming.infer import NOT_INFERABLE, field_of, not_inferable, same_function

# Fields beside those of `NOT_INFERABLE`, of which tensors tell a part or training alone depends on.
_SHOWN = ("stem.convs", "norm.momentum")
_OTHERS = ("norm.running_var", "shortcut.scales", "shortcut.dropout", "block.dropout")


def no_objection(spec: ResNetSpec) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a part of a file says.

    `check` says what in it the tensors contradict; they are known by the spec that was inferred
    from them.
    """

    source: str  # "its config.json", as messages call it
    fields: Mapping[str, Any]  # of the spec, by their paths
    words: Mapping[str, str] = field(default_factory=dict)  # field -> how the file puts it
    spec: ResNetSpec | None = None  # where all of it is told
    preset: str | None = None
    image_size: int | None = None
    preprocessing: str | None = None  # a key of PREPROCESSING
    prepared: tuple[str, ...] = ()  # layers that prepare the images, before the network
    surroundings: tuple[str, ...] = ()  # what stands around the network, and other remarks
    check: Callable[[ResNetSpec], str | None] = no_objection
    binding: bool = True  # a label is not: the caller may know better

    def shown(self, spec: ResNetSpec) -> dict[str, Any]:
        """What it says that has a say in this network."""
        matters = (*not_inferable(spec), *_SHOWN)
        found = {name: value for name, value in self.fields.items() if name in matters}
        return found | ({"image_size": self.image_size} if self.image_size else {})

    def contradiction(
        self, spec: ResNetSpec, explicit: Mapping[str, Any], whose: str
    ) -> str | None:
        """Where another network is asked for.

        Args:
            spec: the network that is asked for.
            explicit: the fields that the caller sets, by any of their names; these must agree even
                where the function is the same.
            whose: what says the others.
        """
        for name, value in self.fields.items():
            asked = field_of(spec, name)
            is_set = sets(explicit, name)
            if asked == value or not (is_set or _matters(spec, name, value)):
                continue
            here = self.words.get(name, f"{name} = {_text(value)}")
            return (
                f"{self.source} says {here}, and {'--set' if is_set else whose} says "
                f"{name} = {_text(asked)}; leave that out, or correct the file if it is wrong"
            )
        return None


def sets(changes: Mapping[str, Any], name: str) -> bool:
    """Whether changes of a spec set a field, under any of its names or with its group."""
    names = (name, name.replace(".", "_"), name.partition(".")[0])
    return not changes.keys().isdisjoint(names)


def _matters(spec: ResNetSpec, name: str, value: Any) -> bool:
    """Whether another value of a field is another function."""
    try:
        return not same_function(spec, spec.replace(**{name: value}))
    except ValueError:
        return True


def _text(value: Any) -> str:
    return shown_value(list(value) if isinstance(value, tuple) else value)


def all_fields(spec: ResNetSpec) -> dict[str, Any]:
    """What a source tells that tells the whole network."""
    return {name: field_of(spec, name) for name in (*NOT_INFERABLE, *_SHOWN, *_OTHERS)}
