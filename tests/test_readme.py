"""README's Python does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from shared import make_plan
from tests.zoo import in_zoo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRESET = "torchvision/resnet50"


@pytest.mark.parametrize("preset", ["torchvision/resnet18", in_zoo(PRESET)])
def test_the_python_block_runs(preset: str) -> None:
    """As it stands in the zoo; with a network that XLA compiles sooner in the short run."""
    pytest.importorskip("torch")
    pytest.importorskip("flax.nnx")
    (block,) = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert block.count(PRESET) == 1
    names: dict = {}
    exec(block.replace(PRESET, preset), names)  # noqa: S102 - README's own
    spec, trace = names["spec"], names["trace"]
    rows = make_plan(spec, 64).layers
    assert trace.names == [*(f"eval/{row.name}" for row in rows), "eval/output"]
    assert trace.shape("eval/output") == (2, 10)
    torch, flax = names["resnet_torch"], names["resnet_flax"]
    here, there = torch.export_weights(names["here"]), flax.export_weights(names["there"])
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_a_newcomer_reads_it_in_one_go() -> None:
    """What is longer goes to docs/."""
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_its_links_lead_somewhere() -> None:
    places = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [place for place in places if not (ROOT / place).exists()] == []
    assert len(places) > 10
