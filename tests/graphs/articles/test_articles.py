"""Of networks in the manner of the five articles, the answer says which each is, and what it does
otherwise than its paper: where, at which line.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest

from shared import identify
from shared.graphs.overlay import Departure
from shared.graphs.verdict import SAME_MODEL, THIS_SIZE, Identified
from tests.zoo import rest_in_zoo

pytest.importorskip("torch")

from tests.graphs.planted import randomise

V1, V2 = "arXiv:1512.03385", "arXiv:1603.05027"


class Article(NamedTuple):
    """What is said of an article's network: the departures from its paper as (what, yours, the
    paper's) -> (in how many places, one of them, its line of the article's module).
    """

    preset: str
    verdict: str
    paper: tuple[str, str]
    otherwise: dict[tuple[str, str, str], tuple[int, str, str]]
    classes: int = 1000


POOL = ("padding", "(1, 0)", "(0, 1)")  # at 224 pixels; Caffe's windows begin at the border
ARTICLES = {
    "article_000": Article(
        "torchvision/resnet34",
        THIS_SIZE,
        ("he/resnet34_b", V1),
        {POOL: (1, "maxpool", "x = self.maxpool(")},
    ),
    "article_001": Article(
        "d2l/resnet18",
        SAME_MODEL,
        ("he/resnet18_b", V1),
        {
            ("bias", "yes", "no"): (20, "resnet_block2.0.conv1", "self.bn1(self.conv1(x))"),
            ("missing", "nothing", "BatchNorm (eps 1e-05)"): (
                3,
                "resnet_block2.0.conv3",
                "self.conv3(x)",
            ),
            POOL: (1, "3", ""),  # of a Sequential: no line of the article's runs it
        },
        10,
    ),
    "article_002": Article(
        "torchvision/resnet50",
        THIS_SIZE,
        ("he/resnet50_no_bias", V1),
        {
            POOL: (1, "maxpool", "x = self.maxpool("),
            ("stride", "1", "2"): (3, "layer2.0.conv1", "self.bn1(self.conv1(x))"),
            ("stride", "2", "1"): (3, "layer2.0.conv2", "self.bn2(self.conv2(out))"),
        },
    ),
    "article_003": Article(
        "article/resnet50v2",
        SAME_MODEL,
        ("fb/preresnet50", V2),
        {
            ("bias", "yes", "no"): (1, "conv1.conv", ""),
            ("stride", "2", "1"): (3, "conv2.conv.2.conv2.0", "self.conv3(self.conv2("),
            ("stride", "1", "2"): (6, "conv3.conv.0.short", "self.short(x1)"),
        },
        100,
    ),
    "article_004": Article(
        "torchvision/resnet34",
        SAME_MODEL,
        ("he/resnet34_b", V1),
        {POOL: (1, "maxpool", "x = self.maxpool(")},
    ),
}


def answer(article: str, function: str = "net") -> Identified:
    module = importlib.import_module(f"tests.graphs.articles.{article}")
    model = getattr(module, function)()
    randomise(model)
    return identify(model)


def grouped(departures: list[Departure]) -> dict[tuple[str, str, str], list[Departure]]:
    groups: dict[tuple[str, str, str], list[Departure]] = {}
    for one in departures:
        groups.setdefault((one.what, one.theirs, one.ours), []).append(one)
    return groups


def source(article: str, line: str) -> str:
    """The line of an article's module that a departure names."""
    if not line:
        return ""
    file, _, number = line.rpartition(":")
    assert file == f"{article}.py"
    module: Any = importlib.import_module(f"tests.graphs.articles.{article}")
    with open(module.__file__, encoding="utf-8") as text:
        return text.readlines()[int(number) - 1]


@pytest.mark.parametrize("name", rest_in_zoo(ARTICLES, {"article_001"}))
def test_which_network_it_is_and_what_it_does_otherwise_than_its_paper(name: str) -> None:
    article, found = ARTICLES[name], answer(name)
    assert found.recognised, (found.verdict, found.notes)
    assert article.preset in found.presets
    assert found.verdict == article.verdict
    assert found.spec is not None
    assert found.spec.num_classes == article.classes
    assert found.paper == article.paper
    groups = grouped(found.from_paper)
    for what, (count, where, text) in article.otherwise.items():
        assert what in groups
        assert sum(one.count for one in groups[what]) == count
        [place] = [one for one in groups[what] if one.where == where]
        assert text in source(name, place.line)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["article_000", "article_002"])
def test_a_window_of_7_pixels_is_for_images_of_224(name: str) -> None:
    found = answer(name)
    if name == "article_002":  # a stride of 1 leaves 4 pixels, which the head does not take
        assert found.image_sizes == [224]
        assert "article_002.py" in " ".join(found.notes)
    else:
        assert found.image_sizes == [224, 225]
        assert [(one.where, one.ours) for one in found.departures] == [
            ("avgpool", "GlobalPool (mode avg)")
        ]


@pytest.mark.zoo
def test_v2_without_its_first_activation_is_neither_version() -> None:
    """The article's `preact=False` keeps V2's units, and drops the norm at the end."""
    found = answer("article_003", "net_without_preact")
    assert (found.preset, found.nearest) == (None, "article/resnet50v2")
    assert found.spec is not None
    assert (found.spec.stem.norm_act, found.spec.head.final) == (True, "none")
    assert {one.where for one in found.from_nearest} >= {"conv1.bn", "conv5.conv.2"}
