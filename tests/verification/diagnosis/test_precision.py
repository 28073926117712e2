"""Ports that compute in another precision than the file holds: rounding alone is no mistake, and a
mistake is found through it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shared.frameworks.diagnose import diagnose_observations
from shared.verification.diagnosis.diagnose import Diagnosis
from shared.verification.diagnosis.execution import cast
from shared.verification.diagnosis.limits import low_precision
from shared.verification.diagnosis.observations import Observations, observations
from shared.verification.hypotheses.hypothesis import Port
from shared.verification.hypotheses.listing import named
from shared.verification.hypotheses.of_surroundings import log_softmax
from shared.verification.rounding import rounded
from tests.verification.diagnosis.ports import SHALLOW, observed, right, small, with_mistakes
from tests.zoo import in_zoo, rest_in_zoo

TF32 = ("stem.conv1", "stages.1.blocks.0.conv2", "head")
MISTAKES = (
    "every norm: its variance taken for a deviation",
    "every norm: its variance stored as a deviation",
    "stages.1.blocks.0.conv1: not loaded (zeros)",
    "norm.eps=0.001",
    "BGR",
    "stages.1.blocks.0.norm2: gamma and beta exchanged",
    "stem.pool_padding=same",
    "last gammas zero",
)
LAYERS = pytest.mark.parametrize("layers", [(), None], ids=["outputs", "layers"])


def said(found: Diagnosis, base: Port, *names: str) -> bool:
    return {cause.what for cause in found.causes} == {named(n, base.spec).what for n in names}


def in_float64(seen: Observations) -> Observations:
    """As a file in float64 whose values have been through another sum: float32 cannot hold them."""
    arrays = {
        key.removeprefix("eval/"): array * (1 + 1e-9 * np.cos(np.arange(array.size)))[-1]
        for key, array in seen.values.items()
    }
    return observations(arrays, seen.images, seen.spec, "a test")


@pytest.mark.parametrize("layer", TF32)
@LAYERS
def test_a_layer_in_tf32_is_named_and_is_no_mistake(layer: str, layers) -> None:
    base = right(SHALLOW)
    port = cast(with_mistakes(base, [f"{layer}: TF32"]), "float32")
    found = diagnose_observations(base.weights, base.spec, observed(port, base, layers=layers))
    assert found.same
    assert found.error_before > found.limit
    assert said(found, base, f"{layer}: TF32")
    assert found.causes[0].kind == "precision"
    assert found.causes[0].where == (layer,)


@pytest.mark.parametrize("layers", [in_zoo(((),)), None], ids=["outputs", "layers"])
def test_a_layer_in_tf32_beside_a_mistake(layers) -> None:
    """Both are said, and it is not the same."""
    base = right(small())
    names = ["BGR", "stages.2.blocks.0.conv1: TF32"]
    port = cast(with_mistakes(base, names), "float32")
    found = diagnose_observations(base.weights, base.spec, observed(port, base, layers=layers))
    assert not found.same
    assert found.explained
    assert said(found, base, *names)


@pytest.mark.parametrize("mistake", rest_in_zoo(MISTAKES, MISTAKES[:3]))
@pytest.mark.parametrize("layers", [in_zoo(((),)), None], ids=["outputs", "layers"])
def test_a_mistake_of_a_port_in_float32_is_found_in_a_file_of_float64(mistake: str, layers) -> None:
    base = right(SHALLOW)
    port = cast(with_mistakes(base, [mistake]), "float32")
    seen = in_float64(observed(port, base, layers=layers))
    assert seen.dtype == "float64"
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.explained, found.nearest
    assert not found.same
    assert said(found, base, mistake)
    assert found.dtype == "float32"


def test_two_mistakes_of_float64_are_not_taken_for_one_in_float32() -> None:
    """What the first leaves is as small as float32's rounding."""
    base = right(SHALLOW)
    names = ["BGR", "norm.eps=1.001e-05"]
    seen = observed(with_mistakes(base, names), base, dtype="float64")
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.explained
    assert said(found, base, *names)
    assert found.dtype == "float64"


@pytest.mark.parametrize("precision", ["TF32", in_zoo("bfloat16"), in_zoo("float16")])
def test_a_mistake_is_found_through_low_precision_from_outputs_alone(precision: str) -> None:
    base = right(SHALLOW)
    mistake = "stages.0.blocks.0.norm1: gamma not loaded (ones)"
    seen = observed(low_precision(with_mistakes(base, [mistake]), precision), base)
    # Values that the low precision cannot hold, as of a mean or a softmax in float32.
    seen = dataclasses.replace(in_float64(seen), dtype="float32")
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.explained
    assert not found.same
    assert said(found, base, mistake)
    assert found.dtype == precision


def test_a_softmax_in_float64_behind_a_port_in_tf32() -> None:
    base = right(SHALLOW)
    seen = observed(low_precision(base, "TF32"), base)
    seen = observations(
        {"outputs": log_softmax(seen.values["eval/output"])}, base.images, base.spec, "a test"
    )
    found = diagnose_observations(base.weights, base.spec, seen)
    assert found.explained
    assert said(found, base, "log-softmax")


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("what", ["outputs", "layers"])
def test_what_is_stored_in_less_is_the_same(stored: str, what: str) -> None:
    """Outputs or layers, of a port that computes in float64."""
    base = right(SHALLOW)
    seen = observed(base, base, layers=None, dtype="float64")
    arrays = {
        key.removeprefix("eval/"): rounded(array, stored)
        if (key == "eval/output") == (what == "outputs")
        else array
        for key, array in seen.values.items()
    }
    found = diagnose_observations(
        base.weights, base.spec, observations(arrays, base.images, base.spec, "a test")
    )
    assert found.same
    assert found.tried == 0
    assert found.dtype == "float64"


def test_a_mistake_of_one_layer_is_not_hidden_by_what_the_others_are_stored_in() -> None:
    """An epsilon that moves a layer by as much as float16 rounds, and nothing in front of it."""
    base = right(SHALLOW)
    mistake = "stages.0.blocks.0.norm2: its epsilon is 0.001"
    seen = observed(with_mistakes(base, [mistake]), base, layers=None)
    found = diagnose_observations(base.weights, base.spec, seen)
    assert not found.same
    assert said(found, base, mistake)


def test_a_layer_of_zeros_on_both_sides_is_the_same() -> None:
    """Last gammas of zero, as many networks are initialised."""
    base = right(SHALLOW)
    zeros = {f"stages.0.blocks.0.norm2.{leaf}": np.zeros(8) for leaf in ("weight", "bias")}
    base = dataclasses.replace(base, weights={**base.weights, **zeros})
    seen = observed(base, base, layers=None)
    assert not seen.values["eval/stages.0.blocks.0.norm2"].any()
    assert diagnose_observations(base.weights, base.spec, seen).same


def test_an_epsilon_that_moves_the_outputs_as_float16_rounds_them_is_a_mistake() -> None:
    """The two correlate with 0.76 in these 20 outputs, and are of one size."""
    base = right(small("he/resnet50"))
    mistake = "stages.0.blocks.0.shortcut.norm: its epsilon is 0.001"
    found = diagnose_observations(
        base.weights, base.spec, observed(with_mistakes(base, [mistake]), base)
    )
    assert not found.same
    assert said(found, base, mistake)
