"""The gradient points at the right tensor, and at no other for want of one."""

from __future__ import annotations

import numpy as np
import pytest

from shared.verification.diagnosis.execution import Run
from shared.verification.diagnosis.passes import one_image
from shared.verification.diagnosis.ranking import in_order
from shared.verification.hypotheses.listing import every, named
from tests.verification.diagnosis.ports import right, small, with_mistakes
from tests.zoo import in_zoo

NAMES = (
    "stages.1.blocks.0.norm1: gamma and beta exchanged",
    "stages.2.blocks.1.conv2: its height and width transposed",
    "stages.0.blocks.1.norm2: its variance taken for a deviation",
    "stages.3.blocks.0.conv1: not loaded (zeros)",
    "head: bias not loaded (zeros)",
    "stages.1.blocks.0.conv2.weight and stages.1.blocks.1.conv2.weight exchanged",
)


@pytest.mark.parametrize("preset", ["torchvision/resnet18", in_zoo("torchvision/resnet50")])
def test_the_right_one_is_among_the_first(preset: str) -> None:
    port = one_image(right(small(preset)), 0)
    run = Run(port)
    output = run.layer("output")
    single = [h for h in every(port.spec) if h.kind == "weights" and h.rank > 2]
    places = []
    for name in NAMES:
        try:
            named(name, port.spec)
        except ValueError:
            continue
        difference = Run(with_mistakes(port, [name])).layer("output") - output
        ordered = in_order(run, "output", difference, single)
        places.append([h.name for h in ordered].index(name))
    assert len(places) >= 5
    assert max(places) < len(single) / 8
    assert np.median(places) < 5


def test_nothing_is_lost_on_the_way() -> None:
    port = one_image(right(small()), 0)
    run = Run(port)
    single = [h for h in every(port.spec) if h.rank > 2]
    ordered = in_order(run, "output", np.ones_like(run.layer("output")), single)
    assert sorted(h.name for h in ordered) == sorted(h.name for h in single)
