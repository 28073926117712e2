"""The same function of other parameters, for a format that has no place for a network's own: a bias
before a batch norm goes into its mean, a difference of eps into its variance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.architecture.presets import get_spec
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError
from shared.formats.render import choose_scheme, expressing
from shared.naming.names import place_of, plan_of
from shared.naming.schemes import Format, Scheme


@dataclass(frozen=True)
class Fitted:
    """A network as a scheme can express it, and what moves into running statistics for that."""

    spec: ResNetSpec
    scheme: Scheme
    biases: Mapping[str, str] = field(default_factory=dict)  # mean -> the bias to subtract
    variance_shift: float = 0.0  # to add to every running variance
    notes: tuple[str, ...] = ()


def fit(spec: ResNetSpec, target: Format, *, bias: bool = False, eps: bool = False) -> Fitted:
    """The scheme that can express the network; folded first, where that is asked for and needed.

    Raises `CheckpointError` with every field that stands in the way.
    """
    fitted, shift, notes = spec, 0.0, []
    biases: dict[str, str] = {}
    if bias and not expressing(fitted, target):
        fitted, biases = fold_bias(fitted)
        if biases:
            notes.append(f"{len(biases)} biases folded into running means, each rounded once")
    if eps and not expressing(fitted, target):
        fitted, shift = _fold_to(fitted, target)
        if shift:
            notes.append(
                f"eps {spec.norm.eps} folded into running variances as {fitted.norm.eps}, "
                "each rounded once"
            )
    return Fitted(fitted, choose_scheme(fitted, target), biases, shift, tuple(notes))


def _fold_to(spec: ResNetSpec, target: Format) -> tuple[ResNetSpec, float]:
    """`fold_eps` to the eps of the first scheme that can express the network then."""
    usual = [get_spec(s.convention, **s.changes).norm.eps for s in target.schemes]
    folded = [fold_eps(spec, eps) for eps in dict.fromkeys(usual)]
    return next((pair for pair in folded if expressing(pair[0], target)), folded[0])


def fold_bias(spec: ResNetSpec) -> tuple[ResNetSpec, dict[str, str]]:
    """The network without the convolution biases that batch norms follow, and which bias is to be
    subtracted from which running mean.

    Only groups of biases that all have a norm behind them are folded; a bias that ends a
    pre-activation unit has none.
    """
    post = spec.block.order == "post"
    if spec.norm.kind != "batch":
        raise CheckpointError(
            f"{spec.name}: a bias can be folded into a batch norm only, and its norms are "
            f"{spec.norm.kind}"
        )
    foldable = {
        "stem.bias": spec.stem.bias and spec.stem.norm_act,
        "block.bias": spec.block.bias and spec.block.order in ("post", "full_pre"),
        "block.last_bias": spec.block.last_bias and post,
        "shortcut.bias": spec.shortcut.bias and spec.shortcut.norm,
    }
    folded = spec.replace(**{name: False for name, folds in foldable.items() if folds})
    gone = plan_of(spec).tensors.keys() - plan_of(folded).tensors.keys()
    return folded, {_mean_behind(bias.removesuffix(".bias"), post): bias for bias in gone}


def _mean_behind(conv: str, post: bool) -> str:
    """The running mean of the norm that follows a convolution."""
    place = place_of(conv)
    if place.kind == "conv" and not post:
        place = place._replace(number=place.number + 1)
    return f"{place._replace(kind=place.kind.replace('conv', 'norm')).layer}.running_mean"


def fold_eps(spec: ResNetSpec, eps: float) -> tuple[ResNetSpec, float]:
    """The network with another eps, and what is to be added to its running variances."""
    if spec.norm.kind != "batch":
        raise CheckpointError(
            f"{spec.name}: eps can be folded into running variances only, and group norms have none"
        )
    return spec.replace(**{"norm.eps": eps}), spec.norm.eps - eps
