"""Arithmetic with constants, recognised by what it computes.

`activation (+, -, *, /) constant` only extends a pair of expressions (scale, shift). When somebody
reads the value, both are evaluated with random numbers in the place of the parameters, and compared
with what a bias, a batch norm or a group norm's gamma and beta would give for the same numbers. Two
rational functions that agree at random points to 1e-10 are the same function (Schwartz, Zippel), so
every way to write a norm is one case.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from shared.graphs.axes import Dims, by_channel
from shared.graphs.constants import Constants, Env
from shared.graphs.primitives import Array

RTOL = 1e-10
MAX_EPS = 0.5  # no norm has more
NORM_ROLES = ("bias", "gamma", "beta", "mean", "variance")  # bias: of the convolution in front


@dataclass(frozen=True, eq=False)
class Expr:
    """A [C] vector or a scalar: a literal, a constant of the graph, or arithmetic of these."""

    op: str
    args: tuple[Any, ...]

    @classmethod
    def literal(cls, value: float) -> Expr:
        return cls("literal", (value,))

    @classmethod
    def constant(cls, i: int, dims: Dims, rank: int) -> Expr:
        """Node i, where it meets an activation of these dimensions."""
        return cls("constant", (i, dims, rank))

    def constants(self) -> Iterator[int]:
        if self.op == "constant":
            yield self.args[0]
        elif self.op != "literal":
            for arg in self.args:
                yield from arg.constants()

    def value(self, constants: Constants, env: Env | None = None) -> Array:
        if self.op == "literal":
            return np.asarray(self.args[0], np.float64)
        if self.op == "constant":
            i, dims, rank = self.args
            found = by_channel(constants.value(i, env), dims, rank)
            return np.asarray(np.nan) if found is None else found
        return _ARITHMETIC[self.op](*(arg.value(constants, env) for arg in self.args))


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


class Map(NamedTuple):
    """a x + b; None is 1 and 0."""

    scale: Expr | None = None
    shift: Expr | None = None

    def then(self, op: str, operand: Expr) -> Map:
        """With `x op operand` behind it."""
        scale, shift = self.scale, self.shift
        if op in ("add", "sub"):
            zero = Expr.literal(0.0) if op == "sub" else None
            start = shift if shift is not None else zero
            return Map(scale, operand if start is None else Expr(op, (start, operand)))
        one = Expr.literal(1.0)
        start = scale if scale is not None else one if op == "div" else None
        scale = operand if start is None else Expr(op, (start, operand))
        return Map(scale, None if shift is None else Expr(op, (shift, operand)))

    def without_factor(self, constants: Constants) -> tuple[Map, float] | None:
        """What comes before a last multiplication by a number, and that number."""
        scale, shift = self
        if scale is None or shift is None or shift.op != "mul":
            return None
        shift_before, factor = shift.args
        before, last = scale.args if scale.op == "mul" else (None, scale)
        if factor is not last or any(constants.is_parameter(i) for i in factor.constants()):
            return None
        numbers = np.unique(factor.value(constants))
        return (Map(before, shift_before), float(numbers[0])) if numbers.size == 1 else None

    def values(self, constants: Constants, env: Env | None = None) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            scale = np.asarray(1.0) if self.scale is None else self.scale.value(constants, env)
            shift = np.asarray(0.0) if self.shift is None else self.shift.value(constants, env)
        return scale, shift

    def constants(self) -> list[int]:
        parts = [part for part in self if part is not None]
        return list(dict.fromkeys(i for part in parts for i in part.constants()))


class Norm(NamedTuple):
    """The leaves in a batch norm's roles, None where one is absent, and its eps."""

    bias: int | None
    gamma: int | None
    beta: int | None
    mean: int | None
    variance: int | None
    eps: float


class Draw(NamedTuple):
    """Random numbers in the place of the parameters, and what the map is with them."""

    of: Mapping[int, Array]
    scale: Array
    shift: Array

    def value(self, leaf: int | None, absent: float) -> Array:
        return np.asarray(absent) if leaf is None else self.of[leaf]


class Recogniser:
    """What one affine map over a constant graph is.

    The parameters are drawn twice: positive, as a variance is, to find which is which; and of both
    signs, the variance aside, because |gamma| is not gamma.
    """

    def __init__(self, constants: Constants, rng: np.random.Generator, channels: int, how: Map):
        self.constants, self.how, self.channels = constants, how, channels
        leaves = [i for i in constants.leaves(how.constants()) if constants.is_number(i)]
        self.vectors = [i for i in leaves if self._is_vector(i)]
        self.literals = sorted(set(self._literals(leaves)))
        self._drawn = self._draw(
            {i: rng.uniform(0.5, 2.0, np.shape(constants.value(i))) for i in self.vectors}
        )
        self.scale, self.shift = self._drawn.scale, self._drawn.shift
        self._signs = {i: rng.choice((-1.0, 1.0), self.channels) for i in self.vectors}

    def _draw(self, random: Env) -> Draw:
        flat = {i: value.reshape(-1) for i, value in random.items()}
        return Draw(flat, *self.how.values(self.constants, random))

    def _of_both_signs(self, variance: int | None = None) -> Draw:
        signed = {i: v * (i == variance or self._signs[i]) for i, v in self._drawn.of.items()}
        shapes = {i: np.shape(self.constants.value(i)) for i in signed}
        return self._draw({i: value.reshape(shapes[i]) for i, value in signed.items()})

    def _always(self, test: Callable[[Draw], bool], variance: int | None = None) -> bool:
        return test(self._drawn) and test(self._of_both_signs(variance))

    def _is_vector(self, i: int) -> bool:
        if self.constants.size(i) != self.channels:
            return False
        one = self.channels == 1  # a literal, unless it is somebody's parameter
        return not one or (self.constants.is_parameter(i) and self._rank(i) > 0)

    def _rank(self, i: int) -> int:
        return np.ndim(self.constants.value(i))

    def _literals(self, leaves: Iterable[int]) -> Iterator[float]:
        for i in leaves:
            value = np.asarray(self.constants.value(i), np.float64)
            spread_out = not self.constants.is_parameter(i) and np.ptp(value) == 0
            if value.size == 1 or (value.size == self.channels and spread_out):
                yield float(value.reshape(-1)[0])

    @property
    def is_literal(self) -> bool:
        """Of single numbers alone."""
        return not self.vectors and np.ndim(self.scale) == np.ndim(self.shift) == 0

    def is_bias(self) -> bool:
        """x + one parameter."""
        return (
            self.how.scale is None
            and len(self.vectors) == 1
            and self._always(lambda draw: _close(draw.shift, draw.of[self.vectors[0]]))
        )

    def gamma_beta(self) -> tuple[int | None, int | None] | None:
        """The leaves of x * gamma + beta, either of which may be absent."""
        if len(self.vectors) > 2:
            return None
        for gamma, beta in itertools.permutations([*self.vectors, None], 2):

            def test(draw: Draw, gamma: int | None = gamma, beta: int | None = beta) -> bool:
                scale, shift = draw.value(gamma, 1.0), draw.value(beta, 0.0)
                return _close(draw.scale, scale) and _close(draw.shift, shift)

            if self._always(test):
                return gamma, beta
        return None

    def batch_norm(self, bias_allowed: bool) -> Norm | None:
        """gamma / sqrt(variance + eps) (x + bias - mean) + beta, in whatever order."""
        if self.how.scale is None or self.how.shift is None or not 2 <= len(self.vectors) <= 5:
            return None
        for roles in _role_sets(len(self.vectors), bias_allowed):
            for order in itertools.permutations(self.vectors):
                leaf = dict(zip(roles, order, strict=True))
                for eps in self._epsilons("variance" in leaf):
                    if self._is_norm(leaf, eps):
                        bias, gamma, beta, mean, variance = (leaf.get(role) for role in NORM_ROLES)
                        return Norm(bias, gamma, beta, mean, variance, eps)
        return None

    def _epsilons(self, variance: bool) -> Sequence[float]:
        return [e for e in self.literals if 0 <= e < MAX_EPS] or [0.0] if variance else [0.0]

    def _is_norm(self, leaf: Mapping[str, int], eps: float) -> bool:
        def test(draw: Draw) -> bool:
            scale = draw.value(leaf.get("gamma"), 1.0)
            if "variance" in leaf:
                scale = scale / np.sqrt(draw.value(leaf["variance"], 1.0) + eps)
            if not _close(draw.scale, scale):
                return False
            centre = draw.value(leaf.get("bias"), 0.0) - draw.value(leaf.get("mean"), 0.0)
            return _close(draw.shift, draw.value(leaf.get("beta"), 0.0) + centre * scale)

        return self._always(test, leaf.get("variance"))


def _role_sets(count: int, bias: bool) -> list[tuple[str, ...]]:
    """Which roles so many parameters can play."""
    sets: dict[int, list[tuple[str, ...]]] = {
        5: [NORM_ROLES] if bias else [],
        4: [("gamma", "beta", "mean", "variance"), *([("bias", *NORM_ROLES[2:])] if bias else [])],
        3: [("beta", "mean", "variance"), ("gamma", "mean", "variance")],
        2: [("mean", "variance"), ("gamma", "beta")],
    }
    return sets[count]


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=RTOL, atol=1e-12))
