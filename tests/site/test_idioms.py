"""The listings of the idioms: `right` is one function in every framework, `wrong` another one."""

from __future__ import annotations

import re

import pytest

from benchmarks.site.idioms import FRAMEWORKS, IDIOMS, Idiom
from benchmarks.site.run_idioms import errors, listing, load
from tests.zoo import rest_in_zoo

SHORT = [
    (framework, idiom)
    for framework in FRAMEWORKS
    for idiom in IDIOMS
    if framework == "torch" or idiom.name in ("padding", "momentum")
]
ALL = [(framework, idiom) for framework in FRAMEWORKS for idiom in IDIOMS]


@pytest.mark.parametrize(
    ("framework", "idiom"),
    rest_in_zoo(ALL, SHORT),
    ids=lambda value: value.name if isinstance(value, Idiom) else value,
)
def test_right_is_right_and_wrong_is_seen(framework: str, idiom: Idiom) -> None:
    pytest.importorskip("flax.nnx" if framework == "flax" else framework)
    right, wrong = errors(idiom, framework)
    assert right <= idiom.limits[framework]
    assert wrong >= idiom.visible
    assert idiom.visible > 10 * idiom.limits[framework] or idiom.name == "initialisation"


@pytest.mark.parametrize(("framework", "idiom"), ALL)
def test_what_is_written_down_was_measured(framework: str, idiom: Idiom) -> None:
    """Else: `python -m benchmarks.site --measure idioms`."""
    found = load()[framework][idiom.name]
    assert found["right"] <= idiom.limits[framework]
    assert found["wrong"] >= idiom.visible


@pytest.mark.parametrize(("framework", "idiom"), ALL)
def test_a_listing_needs_nothing_of_ours(framework: str, idiom: Idiom) -> None:
    text = listing(idiom.name, framework)
    assert not re.search(r"^(?:from|import) (?:shared|resnet_)", text, re.MULTILINE)
    others = {"torch": "keras|flax|jax", "keras": "torch|flax|jax", "flax": "torch|keras"}
    assert not re.search(rf"^(?:from|import) (?:{others[framework]})\b", text, re.MULTILINE)
    assert len(text.splitlines()) < 60
    assert text.startswith('"""')
