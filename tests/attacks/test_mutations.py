"""Mutated checkpoints are refused or read, whatever was changed: no other exception, crash, hang or
new file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks import seeds
from tests.attacks.mutants import Mutants, Seen, mutating
from tests.attacks.mutate import (
    checksum,
    mutant_json,
    mutate,
    problems,
    read_files,
    run_kind,
    run_mutations,
)
from tests.zoo import in_zoo

COUNTS = dict.fromkeys(seeds.SEEDS, 300) | {"orbax": 100}  # TensorStore takes long to start
SHORT = 40
READ_BY_CHANCE = 0.5  # more would say that the mutations change nothing


@pytest.fixture(scope="module")
def mutants() -> Iterator[Mutants]:
    with mutating() as process:
        yield process


@pytest.mark.parametrize("part", ["first", in_zoo("others")])
@pytest.mark.parametrize("kind", seeds.SEEDS)
def test_mutants(mutants: Mutants, kind: str, part: str) -> None:
    numbers = range(SHORT) if part == "first" else range(SHORT, COUNTS[kind])
    count = len(numbers)
    end, counts, failures = run_kind(mutants, kind, numbers)
    assert end == numbers.stop
    assert sum(counts.values()) == count
    assert failures == []
    assert counts["CheckpointError"] > count * (1 - READ_BY_CHANCE)


@pytest.mark.parametrize("kind", seeds.SEEDS)
def test_mutants_differ_and_come_again(tmp_path: Path, kind: str) -> None:
    files = read_files(seeds.SEEDS[kind](tmp_path))
    found = [checksum(kind, files, number) for number in range(50)]
    assert len(set(found)) > 45
    assert found == [checksum(kind, files, number) for number in range(50)]
    changed = [mutate(kind, files, number) for number in range(50)]
    assert sum(all(files[name] == data for name, data in mutant.items()) for mutant in changed) < 5


def test_json_stays_json() -> None:
    text = json.dumps({"a": [1, 2, {"b": "c"}], "d": {"e": 1.5}}).encode()
    made = {mutant_json(text, random.Random(number)) for number in range(100)}  # noqa: S311 - the same every time
    assert len(made) > 50
    valid = 0
    for mutant in made:
        try:
            json.loads(mutant)
            valid += 1
        except ValueError:
            pass
    assert valid > 0.8 * len(made)


def test_the_unchanged_file_is_read(mutants: Mutants, tmp_path: Path) -> None:
    path = seeds.SEEDS["weights-h5"](tmp_path)
    assert mutants.open(path, {}).kind == "read"
    assert mutants.open(path, {".": b""}).kind == "CheckpointError"
    assert mutants.open(path, {}).kind == "read"


# That the tests can fail.


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Seen("builtins.KeyError", "x", 0, []), "KeyError"),
        (Seen("died", "", 0, []), "died"),
        (Seen("hung", "", 20, []), "took 20.0 s"),
        (Seen("read", "", 0, ["/a/new"]), "left"),
        (Seen("CheckpointError", "/a/b: two\nlines", 0, []), "one line"),
        (Seen("CheckpointError", "no path", 0, []), "start with the path"),
    ],
)
def test_problems_are_seen(seen: Seen, said: str) -> None:
    assert any(said in problem for problem in problems(seen, Path("/a/b")))
    assert problems(Seen("read", "", 0, []), Path("/a/b")) == []


def test_it_goes_on_from_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.json"
    assert run_mutations(2, "npz", None, state) == 0
    assert json.loads(state.read_text()) == {"npz": 2}
    assert run_mutations(4, "npz", None, state) == 0
    assert "2 to      4" in capsys.readouterr().out
    assert run_mutations(9, "npz", 0.0, state) == 0
    assert json.loads(state.read_text()) == {"npz": 4}
