"""What the short run covers: every kind of layer, planted mistake, attack and format; and with the
longer runs, all that there is.

Counted on the tests that pytest has chosen and left out in this very run, so only where it was
given all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from shared.naming.schemes import FORMATS
from tests.attacks import seeds
from tests.attacks.corpus import ATTACKS
from tests.conftest import DESELECTED
from tests.formats.test_oracles_small import PEERS
from tests.parity import planted, planted_training
from tests.parity.rendering import FRAMEWORKS
from tests.parity.structures import STRUCTURES, kinds_of_layers

KINDS = frozenset().union(*map(kinds_of_layers, STRUCTURES.values()))


def parameters(items: Iterable[pytest.Item], file: str, test: str) -> list[dict]:
    """Those of every case of a test."""
    return [
        item.callspec.params
        for item in items
        if item.nodeid.startswith(f"tests/{file}::{test}[") and isinstance(item, pytest.Function)
    ]


@pytest.fixture
def short(request: pytest.FixtureRequest) -> list[pytest.Item]:
    config = request.config
    given = {Path(config.rootpath, argument) for argument in config.args}
    chosen = (config.option.markexpr, config.option.keyword, config.getoption("lf", False))
    if given != {config.rootpath / "tests"} or chosen != ("not zoo and not exhaustive", "", False):
        pytest.skip("this is not the whole short run")
    return request.session.items


@pytest.fixture
def whole(short: list[pytest.Item], request: pytest.FixtureRequest) -> list[pytest.Item]:
    """With the zoo and the exhaustive run."""
    return [*short, *request.config.stash[DESELECTED]]


TRAINED = ("parity/test_training.py", "test_every_structure_trains_alike")
COMPARED = ("parity/test_parity.py", "test_every_pair_agrees_on_every_layer")


@pytest.mark.parametrize("test", [TRAINED, COMPARED], ids=["trained", "compared"])
def test_every_kind_of_layer(
    short: list[pytest.Item], whole: list[pytest.Item], test: tuple[str, str]
) -> None:
    chosen, every = ({case["preset"] for case in parameters(s, *test)} for s in (short, whole))
    assert frozenset().union(*(kinds_of_layers(STRUCTURES[name]) for name in chosen)) == KINDS
    assert every == set(STRUCTURES)
    assert len(chosen) < len(every) / 2


@pytest.mark.parametrize(
    ("file", "mistakes"),
    [
        ("parity/test_planted.py", planted.MISTAKES),
        ("parity/test_planted_training.py", planted_training.MISTAKES),
    ],
    ids=["forward", "training"],
)
def test_every_planted_mistake(
    short: list[pytest.Item], whole: list[pytest.Item], file: str, mistakes: tuple
) -> None:
    """In one framework, and with the other runs in all of them."""
    for items, least in ((short, 1), (whole, len(FRAMEWORKS))):
        found: dict[str, set[str]] = {mistake.name: set() for mistake in mistakes}
        for case in parameters(items, file, "test_mistake_is_caught_and_located"):
            found[case["mistake"].name].add(case["framework"])
        assert {name for name, frameworks in found.items() if len(frameworks) < least} == set()


def test_every_attack_and_every_kind_of_file_that_is_mutated(short: list[pytest.Item]) -> None:
    attacked = parameters(short, "attacks/test_attacks.py", "test_refused")
    assert {case["name"] for case in attacked} == set(ATTACKS)
    mutated = parameters(short, "attacks/test_mutations.py", "test_mutants")
    assert {case["kind"] for case in mutated} == set(seeds.SEEDS)


def test_every_format(short: list[pytest.Item]) -> None:
    """Named and read back, in every container that is written, and as each peer writes it."""
    named = parameters(
        short, "naming/test_schemes.py", "test_names_of_a_format_are_different_and_read_back"
    )
    assert {case["form"] for case in named} == set(FORMATS)
    written = [
        *parameters(short, "formats/test_convert.py", "test_every_container_there_and_back"),
        *parameters(short, "formats/test_docs.py", "test_which_files_say_what_network_they_are"),
    ]
    flax = "formats/test_oracles_flax.py"
    own = {"msgpack": "test_our_file_loads_into_linen", "npz": "test_bit_npz_as_numpy_has_it"}
    found = {case["container"] for case in written}
    found |= {container for container, test in own.items() if parameters(short, flax, test)}
    assert found == {container for target in FORMATS.values() for container in target.containers}
    theirs = parameters(short, "formats/test_oracles_small.py", "test_theirs_runs_in_ours")
    assert {case["name"] for case in theirs} == set(PEERS)
