"""McNemar's test, and the names that tables give to paths."""

from __future__ import annotations

import pytest

from shared.training.significance import PairedComparison, paired_comparisons, short_names


def test_pairs_count_the_images_that_only_one_classifies_correctly() -> None:
    first, second, third = paired_comparisons({"a": [0, 1, 2], "b": [2, 3], "c": []}, 10)
    assert (first.a, first.b, first.only_a, first.only_b) == ("a", "b", 1, 2)
    assert (second.a, second.b, second.only_a, second.only_b) == ("a", "c", 0, 3)
    assert (third.a, third.b, third.only_a, third.only_b) == ("b", "c", 0, 2)
    assert first.difference == pytest.approx(-10)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),  # nothing to tell them apart
        (3, 3, 1.0),
        (0, 1, 1.0),
        (0, 5, 2 / 32),  # five tosses, all the same
        (1, 5, 2 * (1 + 6) / 64),
    ],
)
def test_the_exact_two_sided_p_value(only_a: int, only_b: int, p: float) -> None:
    assert PairedComparison("a", "b", only_a, only_b, 1000).p_value == pytest.approx(p, rel=1e-12)
    assert PairedComparison("b", "a", only_b, only_a, 1000).p_value == pytest.approx(p, rel=1e-12)


def test_the_p_value_agrees_with_scipy() -> None:
    from scipy import stats  # half a second, in every process if it were above

    for only_a, only_b in [(2, 7), (40, 61), (59, 6), (240, 278)]:
        expected = stats.binomtest(only_a, only_a + only_b).pvalue
        assert PairedComparison("a", "b", only_a, only_b, 10_000).p_value == pytest.approx(
            expected, rel=1e-9
        )


@pytest.mark.parametrize(
    ("paths", "short"),
    [
        (["runs/a/torch/weights.safetensors"], ["runs/a/torch/weights.safetensors"]),
        (["runs/a/torch/w.safetensors", "runs/a/flax/w.safetensors"], ["torch", "flax"]),
        (["a.pth", "b.pth"], ["a.pth", "b.pth"]),
        (["/x/one/a/w", "/x/two/b/w"], ["one/a", "two/b"]),
        (["x/w", "x/y/w"], ["w", "y/w"]),
        (
            ["rosetta:fashion-mnist/resnet20", "runs/w"],
            ["rosetta:fashion-mnist/resnet20", "runs/w"],
        ),
    ],
)
def test_short_names_leave_out_what_all_share(paths: list[str], short: list[str]) -> None:
    assert short_names(paths) == short
