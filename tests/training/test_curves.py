"""`shared.training.curves`: where two runs diverge, and what is drawn of them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from shared import SpecError
from shared.training.curves import THRESHOLDS, divergences, draw
from shared.training.runs import read_run
from tests.cli_runner import Rosetta
from tests.training.makers import make_run
from tests.zoo import in_zoo


def test_where_runs_diverge(tmp_path: Path) -> None:
    first = [1.0, 1.0, 1.0, 1.0]
    second = [1.0, 1.0 + 1e-12, 1.0 + 1e-5, 2.0]
    runs = [
        read_run(make_run(tmp_path / n, losses, n))
        for n, losses in (("torch", first), ("flax", second))
    ]
    (divergence,) = divergences(runs)
    assert dict(zip(THRESHOLDS, divergence.first, strict=True)) == {
        0.0: 2,
        1e-9: 3,
        1e-6: 3,
        1e-3: 4,
        1e-2: 4,
    }
    assert (divergence.largest, divergence.steps, divergence.accuracy) == (1.0, 4, (0.9, 0.9))
    (same,) = divergences([runs[0], runs[0]])
    assert same.first == (None,) * len(THRESHOLDS)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    runs = [
        read_run(make_run(tmp_path / n, [1 / (i + 1) for i in range(30)], n))
        for n in ("torch", "flax")
    ]
    draw(runs, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 1000
    with pytest.raises(SpecError, match="a plot is"):
        draw(runs, tmp_path / "a.txt")


def test_one_run_alone_has_nothing_to_part_from(rosetta: Rosetta, tmp_path: Path) -> None:
    run, picture = make_run(tmp_path / "a", [2.0, 1.0]), tmp_path / "a.png"
    result = rosetta("curves", run, "-o", picture)
    assert (result.code, result.out) == (0, f"{picture}: 1 run\n")


@pytest.mark.parametrize(
    ("first", "second", "largest"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),  # a network that has learned all there is
        in_zoo(([1.0, 0.0], [1.0, 0.0], 0.0)),
        ([0.0, 0.0], [0.0, 1e-9], 1.0),  # over the larger one, where the smaller is 0
    ],
)
def test_losses_of_zero_are_compared(
    rosetta: Rosetta, tmp_path: Path, first: list[float], second: list[float], largest: float
) -> None:
    runs = [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rosetta("curves", *runs, "-o", tmp_path / "a.png", "--json", "-")
    assert (result.code, result.err) == (0, "")
    (divergence,) = result.json
    assert divergence["largest"] == largest
    assert divergence["first"][0] == (None if largest == 0 else len(first))


def test_differences_are_numbers_that_json_holds(tmp_path: Path) -> None:
    a, b = (
        read_run(make_run(tmp_path / name, [loss])) for name, loss in (("a", 1e-320), ("b", 1e300))
    )
    (divergence,) = divergences([a, b])
    assert divergence.largest == sys.float_info.max
