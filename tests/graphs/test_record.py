"""The layers of a user's own model are recorded under canonical names, as it computes them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from shared.errors import FrameworkError
from shared.frameworks import reference
from shared.frameworks.readers import reader_of
from shared.graphs.record import record
from shared.graphs.verdict import identify_graph
from shared.verification.trace import Trace
from shared.weights.probe import probe_images

torch = pytest.importorskip("torch")

from tests.graphs import users_models as users
from tests.graphs.planted import randomise

ROUNDING = 1e-13
IMAGES = probe_images((3, 32, 32, 3))  # one more than a reader traces with


def made(**how: str) -> Any:
    torch.manual_seed(0)
    model = users.Cifar(**how)
    randomise(model)
    return model


@functools.cache
def of_the_reference(**how: str) -> tuple[Any, Trace]:
    """Of a model that is `made` in this way."""
    found = identify_graph(reader_of(made(**how)), 32)
    assert found.spec is not None
    own = reference.build(found.spec, dtype="float64")
    reference.load_weights(own, found.weights)
    return found.spec, reference.trace(own, IMAGES)


@pytest.mark.parametrize("how", [{}, {"how": "half of both", "head": "sum"}], ids=["plain", "odd"])
def test_every_layer_is_as_the_reference_computes_it(how: dict[str, str]) -> None:
    spec, truth = of_the_reference(**how)
    found = record(reader_of(made(**how)), spec, IMAGES)
    assert found.left_out == []
    assert found.apart < ROUNDING
    named = {f"eval/{name}": array for name, array in found.layers.items()}
    assert [*named, "eval/output"] == truth.names
    for name, array in (named | {"eval/output": found.output}).items():
        np.testing.assert_allclose(array, truth[name], rtol=ROUNDING, atol=ROUNDING, err_msg=name)


def test_what_stands_before_the_stem_is_handed_what_it_makes_the_images_of() -> None:
    inner = made()
    spec, truth = of_the_reference()
    mean = torch.tensor([0.4, 0.5, 0.6])[:, None, None]

    class Prepared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return torch.softmax(self.inner((x / 255 - mean) / 0.25)["logits"], 1)

    found = record(reader_of(Prepared()), spec, IMAGES)
    np.testing.assert_allclose(found.output, truth["eval/output"], rtol=0, atol=1e-6)
    assert len(found.layers) == len(truth.names) - 1


def test_layers_that_depart_are_recorded_as_they_are() -> None:
    model = made()
    spec, truth = of_the_reference()
    model.layers[1].bn1.eps = 1e-3
    found = record(reader_of(model), spec, IMAGES)
    assert [(d.where, d.what) for d in found.departures] == [("layers.1.bn1", "eps")]
    wrong = [
        name
        for name in found.layers
        if not np.allclose(found.layers[name], truth[f"eval/{name}"], rtol=1e-9, atol=1e-9)
    ]
    assert wrong[0] == "stages.1.blocks.0.norm1"


def test_a_layer_that_is_not_there_is_left_out() -> None:
    model = made()
    spec, _ = of_the_reference()
    model.layers[1].bn2 = torch.nn.Identity()
    found = record(reader_of(model), spec, IMAGES)
    assert found.left_out == ["stages.1.blocks.0.norm2"]


def test_a_model_that_rolls_dice_has_no_trace() -> None:
    model = made()
    spec, _ = of_the_reference()
    forward = model.forward
    model.forward = lambda x: forward(x)["logits"] + torch.rand(())
    with pytest.raises(FrameworkError, match="cannot be recorded"):
        record(reader_of(model), spec, IMAGES)
