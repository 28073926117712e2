"""`rosetta source`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared import get_spec
from shared.source.write import source
from tests.cli_runner import Rosetta


def test_on_standard_output(rosetta: Rosetta) -> None:
    result = rosetta("source", "resnet18", "--framework", "torch")
    assert (result.code, result.err) == (0, "")
    assert result.out == source(get_spec("torchvision/resnet18"), "torch")


def test_into_a_file(rosetta: Rosetta, tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    given = ("resnet18", "--framework", "torch", "--set", "num_classes=10", "-o", path)
    result = rosetta("source", *given)
    assert (result.code, result.out) == (0, "")
    assert "network.py" in result.err
    text = path.read_text("utf-8")
    assert text == source(get_spec("torchvision/resnet18", num_classes=10), "torch")
    assert "nn.Linear(512, 10)" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet18", "--framework", "pytorch"], "unknown framework 'pytorch'"),
        (["resnet19", "--framework", "torch"], "unknown preset 'resnet19'"),
        (["resnet18"], "--framework"),
        (
            [
                "resnet18",
                "--framework",
                "torch",
                "--set",
                "weight_std_eps=1e-8",
                "--set",
                "block.padding=same",
            ],
            "weight_std_eps together with SAME padding",
        ),
        (["resnet18", "--framework", "torch", "-o", "/nowhere/a.py"], "/nowhere"),
    ],
    ids=["framework", "preset", "no framework", "not possible", "no folder"],
)
def test_refused(rosetta: Rosetta, arguments: list[str], said: str) -> None:
    rosetta("source", *arguments).refused(said)
