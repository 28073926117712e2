"""The proof can fail: every planted mistake is caught, and located at the layer where it starts.

That the same networks pass without the mistake is `test_parity.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shared import ResNetSpec, Trace, compare, probe_images, probe_weights
from shared.architecture import ops
from shared.frameworks import reference
from tests.parity.planted import MISTAKES, Mistake
from tests.parity.rendering import FRAMEWORKS, package
from tests.parity.structures import STRUCTURES
from tests.probes import loaded
from tests.zoo import rest_in_zoo

IDS = [mistake.name.replace(" ", "-") for mistake in MISTAKES]
CASES = [(mistake, framework) for mistake in MISTAKES for framework in FRAMEWORKS]
# Each mistake in one framework, most in PyTorch: XLA compiles every layer anew.
TURNS = ("torch", "keras", *["torch"] * 4, "flax", *["torch"] * 4)
SHORT = [(mistake, TURNS[i % len(TURNS)]) for i, mistake in enumerate(MISTAKES)]


def test_there_are_as_many_mistakes_as_is_said():
    said = (Path(__file__).parents[2] / "docs" / "proof.md").read_text("utf-8")
    assert f"{len({mistake.name for mistake in MISTAKES})} planted mistakes" in said


@pytest.fixture(scope="module")
def truth():
    """The reference's trace of a spec and a size, taken once."""
    known: dict = {}

    def take(mistake: Mistake) -> Trace:
        key = mistake.spec, mistake.size
        if key not in known:
            model = loaded(reference, mistake.spec)
            known[key] = reference.trace(model, _images(mistake))
        return known[key]

    return take


def _images(mistake: Mistake):
    return probe_images((2, mistake.size, mistake.size, mistake.spec.in_channels), dtype="float64")


@pytest.mark.parametrize(
    ("mistake", "framework"),
    rest_in_zoo(CASES, SHORT),
    ids=[f"{IDS[MISTAKES.index(m)]}-{f}" for m, f in CASES],
)
def test_mistake_is_caught_and_located(mistake: Mistake, framework: str, truth):
    rendering = package(framework)
    port = mistake.wrong(probe_weights(mistake.spec, dtype="float64"))
    model = rendering.build(port.spec, dtype="float64")
    rendering.load_weights(model, port.weights)
    wrong = rendering.trace(model, _images(mistake))
    # The side that is wrong believes that it built the right network.
    comparison = compare(dataclasses.replace(wrong, spec=mistake.spec), truth(mistake))
    assert not comparison.passed
    assert comparison.first_divergence == f"eval/{mistake.where}"


def _trace(side: str, spec: ResNetSpec) -> Trace:
    rendering = reference if side == "reference" else package(side)
    model = rendering.build(spec, dtype="float64")
    rendering.load_weights(model, probe_weights(spec, dtype="float64"))
    return rendering.trace(model, probe_images((2, 64, 64, 3), dtype="float64"))


def test_a_wrong_pad_of_the_plan_is_noticed_by_the_reference(monkeypatch, request):
    """PyTorch and Flax pad this pool by `ops.window_pads`: a mistake there leaves them equal."""
    import jax

    jax.clear_caches()  # what was compiled before the mistake has the right pads
    request.addfinalizer(jax.clear_caches)  # and what is compiled now, the wrong ones
    right = ops.window_pads

    def odd_pixel_in_front(*arguments):
        return tuple(pads[::-1] for pads in right(*arguments))

    monkeypatch.setattr(ops, "window_pads", odd_pixel_in_front)
    torch, flax, truth = (
        _trace(side, STRUCTURES["tf/resnet18_v1"]) for side in ("torch", "flax", "reference")
    )
    assert compare(torch, flax).passed
    for wrong in (torch, flax):
        comparison = compare(wrong, truth)
        assert not comparison.passed
        assert comparison.first_divergence == "eval/stem.pool"


def test_a_blur_with_another_border_is_caught(monkeypatch):
    """timm's `blurpc` pads with zeros, and has the same weights."""
    import torch.nn.functional as F

    def zeros_outside(self, x):
        kernel = self.filter.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.op.stride, padding=1, groups=x.shape[1])

    monkeypatch.setattr(package("torch").layers.BlurPool2d, "forward", zeros_outside)
    wrong, truth = (
        _trace(side, STRUCTURES["timm/resnetblur50"]) for side in ("torch", "reference")
    )
    comparison = compare(wrong, truth)
    assert not comparison.passed
    assert comparison.first_divergence == "eval/stem.anti_alias"
