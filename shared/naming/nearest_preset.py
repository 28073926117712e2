"""The preset that is nearest to a third-party checkpoint which is no known network.

Where a scheme knows the names, tensors are compared by canonical name and shape; where none does,
by the shapes of their kernels alone.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from shared.architecture.ops import Shape
from shared.architecture.plan import make_plan
from shared.architecture.presets import get_spec, list_presets
from shared.naming.names import foreign_names
from shared.naming.schemes import FORMATS, Scheme
from shared.weights.canonical import HWIO_TO_OIHW

ALIKE = 0.3  # of all the tensors of both sides; what has less in common is no near miss
SAME_FAMILY = 0.1  # how much less alike a preset of the family of the file's names may be
ALIKE_SHAPES = 0.5  # the same of kernels without names, which say less
COVERED = (
    0.8  # of a preset's kernels, when shapes are all there is: those of VGG are half a ResNet-18's
)
OIHW = (0, 1, 2, 3)
KERNELS = (2, 4)  # axes
# Whose kernels are HWIO, where they have names.
CHANNELS_LAST = {
    family
    for f in FORMATS.values()
    for scheme in f.schemes
    if scheme.channels_last and scheme.free is not None
    for family in scheme.families
}
SHOWN = 3  # tensors of each kind
MAX_SHOWN = 100  # characters of a name


class Nearest(NamedTuple):
    """A preset and how the file differs from it, in the file's own names."""

    preset: str
    fit: int  # of the preset's tensors (or kernels) those that the file has
    total: int
    what: str  # was compared: "tensors", or "kernels" by their shapes alone
    problems: Mapping[str, list[str]]  # kind -> names

    def __str__(self) -> str:
        by_what = ", by their shapes" if self.what == "kernels" else ""
        said = [
            f"{self.preset}: {'all' if self.fit == self.total else self.fit} of its {self.total} "
            f"{self.what} "
            f"fit{by_what}"
        ]
        said += [
            f"{len(names)} {kind}: {first(names)}" for kind, names in self.problems.items() if names
        ]
        return "; ".join(said)


def first(names: list[str], count: int = SHOWN) -> str:
    """The first of some names of a file, which may be long and many."""
    shown = [name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…" for name in names[:count]]
    return ", ".join(shown) + (", …" if len(names) > count else "")


def by_names(
    scheme: Scheme,
    names: Mapping[str, str],
    shapes: Mapping[str, Shape],
    unrecognised: Iterable[str] = (),
) -> Nearest | None:
    """The preset of which most tensors have the canonical names and shapes of the file's, if one is
    like it at all.

    Args:
        scheme: how the file's names were read; of presets about as near, one of its families is
            taken.
        names: canonical -> the file's.
        shapes: canonical, by canonical name.
        unrecognised: names of the file that the scheme does not know.
    """
    unrecognised, found = (
        list(unrecognised),
        {name: _sizeless(name, shape) for name, shape in shapes.items()},
    )
    size = len(found) + len(unrecognised)

    def likeness(preset: str) -> float:
        """A tensor of the same name and another shape counts half: a narrow ResNet-50 is still like
        a ResNet-50.
        """
        wanted = _tensors(preset)
        common = found.keys() & wanted.keys()
        same = sum(found[name] == wanted[name] for name in common)
        return (same + len(common)) / 2 / (size + len(wanted) - len(common))

    alike = {preset: likeness(preset) for preset in _within_reach(size, ALIKE)}
    best = max(
        alike,
        key=lambda preset: alike[preset] + SAME_FAMILY * (_family(preset) in scheme.families),
        default=None,
    )
    if best is None or alike[best] < ALIKE:
        return None
    wanted = _tensors(best)
    same = {name for name, shape in wanted.items() if found.get(name) == shape}
    if not same:
        return None
    expected, _ = foreign_names(scheme, make_plan(get_spec(best)))
    return Nearest(
        best,
        len(same),
        len(wanted),
        "tensors",
        {
            "missing": [expected.get(name, name) for name in wanted if name not in found],
            "of another shape": [
                names[name] for name in wanted if name in found and name not in same
            ],
            "unexpected": [*(names[name] for name in found if name not in wanted), *unrecognised],
        },
    )


def by_shapes(shapes: Mapping[str, Shape]) -> Nearest | None:
    """The preset that shares most kernels with a file whose names nobody knows, if it shares nearly
    all of its own.
    """
    best, alike = None, (ALIKE_SHAPES, False, 0.0)
    for axes in (OIHW, HWIO_TO_OIHW):  # the file may have either layout
        turned = {name: _turned(shape, axes) for name, shape in shapes.items()}
        every = Counter(turned.values())
        kernels = _kernels(every)
        for preset in _within_reach(len(shapes), ALIKE_SHAPES):
            wanted, theirs = (
                _kernels(_shapes(preset)),
                (_family(preset) in CHANNELS_LAST) == (axes != OIHW),
            )
            # Vectors say little, so that nearly as many are as good: the first of these presets is
            # the best known.
            likeness = (
                _likeness(wanted, kernels),
                theirs,
                round(_likeness(_shapes(preset), every), 1),
            )
            if (wanted & kernels).total() >= COVERED * wanted.total() and likeness > alike:
                best, alike = (preset, turned), likeness
    if best is None:
        return None
    preset, turned = best
    left, more = _kernels(_shapes(preset)), []
    total = left.total()
    for name, shape in turned.items():
        if left[shape] > 0:
            left[shape] -= 1
        elif len(shape) in KERNELS:
            more.append(name)
    lacking = [f"[{', '.join(str(n or '*') for n in shape)}]" for shape in left.elements()]
    return Nearest(
        preset, total - len(lacking), total, "kernels", {"missing": lacking, "unexpected": more}
    )


def _likeness(preset: Counter[Shape], file: Counter[Shape]) -> float:
    """What both have, of what either has.

    A file may have thousands of shapes, a preset has some twenty.
    """
    common = (preset & file).total()
    return common / (preset.total() + file.total() - common)


def _within_reach(size: int, alike: float) -> Iterator[str]:
    """Presets that a file of `size` tensors can be like at all; plans of deep networks take long to
    lay out.

    No block has fewer than five tensors.
    """
    return (name for name in list_presets() if 5 * sum(get_spec(name).depths) <= size / alike)


def _family(preset: str) -> str:
    return preset.partition("/")[0]


def _sizeless(name: str, shape: Shape) -> Shape:
    """The shape without the number of classes and of input channels, which no preset insists on."""
    if name in ("head.weight", "head.bias"):
        return (0, *shape[1:])
    return (shape[0], 0, *shape[2:]) if name == "stem.conv1.weight" and len(shape) == 4 else shape


@functools.cache
def _tensors(preset: str) -> dict[str, Shape]:
    return {
        name: _sizeless(name, shape) for name, shape in make_plan(get_spec(preset)).tensors.items()
    }


def _turned(shape: Shape, axes: tuple[int, ...]) -> Shape:
    """A shape in canonical layout; of a matrix only its inputs, for the classes may be others."""
    if len(shape) == 4:
        return tuple(shape[axis] for axis in axes)
    return (0, shape[axes == OIHW]) if len(shape) == 2 else tuple(shape)


@functools.cache
def _shapes(preset: str) -> Counter[Shape]:
    return Counter(_turned(shape, OIHW) for shape in make_plan(get_spec(preset)).tensors.values())


def _kernels(shapes: Counter[Shape]) -> Counter[Shape]:
    return Counter({shape: count for shape, count in shapes.items() if len(shape) in KERNELS})
