"""A user's own check, run on files with planted mistakes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from shared import open_checkpoint, probe_weights, save_weights
from shared.errors import FrameworkError, SpecError
from shared.formats.checkpoint import Checkpoint
from shared.frameworks.user_check import audit_command, spread
from shared.verification.hypotheses.of_weights import of_weights
from tests.cli_runner import Rosetta
from tests.verification.diagnosis.ports import small

# A check that looks at one tensor; it passes where that is as it was. It starts without NumPy.
CHECK = """
import json, sys

def tensor(path):
    data = open(path, "rb").read()
    start = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:start])["{tensor}"]["data_offsets"]
    return data[start + first : start + end]

sys.exit(0 if tensor(sys.argv[1]) == tensor(sys.argv[2]) else 3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my weights; true.safetensors"  # no shell reads it
    save_weights(path, probe_weights(small()), small())
    return path


@pytest.fixture
def checkpoint(file: Path) -> Checkpoint:
    return open_checkpoint(file)


def looking_at(tensor: str, file: Path) -> str:
    script = file.parent / "check.py"
    script.write_text(CHECK.format(tensor=tensor), encoding="utf-8")
    return shlex.join([sys.executable, str(script), "{file}", str(file)])


def test_what_the_check_does_not_look_at_passes_unseen(checkpoint: Checkpoint, file: Path) -> None:
    found = audit_command(checkpoint, looking_at("stem.norm1.bias", file), most=12)
    seen = {p.what for p in found.mistakes if p.visible}
    assert "every norm: beta not loaded (zeros)" in seen
    assert "every norm: gamma and beta exchanged" in seen
    unseen = {p.what for p in found.unseen}
    assert "every norm: gamma not loaded (ones)" in unseen
    assert "every kernel: flipped in height" in unseen
    assert all(p.error > 0 for p in found.mistakes)
    assert len(found.why_blind) == 1
    assert 0 < found.score < 1
    assert found.to_dict()["mistakes"][0].keys() >= {"kind", "what", "visible", "error"}


def test_a_check_that_passes_with_everything_is_told_so(checkpoint: Checkpoint) -> None:
    found = audit_command(checkpoint, f"{sys.executable} -c pass {{file}}", most=2)
    assert found.score == 0
    assert "may not load {file}" in found.why_blind[0]


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ("true", SpecError, "has no {file}"),
        ("true '{file}", SpecError, "cannot be split"),
        ("no-such-program {file}", FrameworkError, "cannot be run"),
        ("false {file}", FrameworkError, "fails on the right file"),
        ("sh -c 'sleep 60' {file}", FrameworkError, "ran longer than 0.2 s"),
    ],
)
def test_what_cannot_be_learnt_from(checkpoint, command: str, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        audit_command(checkpoint, command, seconds=0.2)


def test_few_mistakes_are_of_all_kinds_and_places() -> None:
    every = list(of_weights(small()))
    chosen = [h.name for h in spread(every, 60)]
    assert len(chosen) == len(set(chosen)) == 60
    assert sum(name.startswith("every ") for name in chosen) > 10
    assert any(name.startswith("stem.") for name in chosen)
    assert any(name.startswith("stages.3.") for name in chosen)
    assert any(name.endswith("exchanged") for name in chosen)
    assert {h.name for h in spread(every, 10**6)} == {h.name for h in every}


def test_from_the_command(rosetta: Rosetta, file: Path) -> None:
    command = f"{sys.executable} -c pass {{file}}"
    result = rosetta("audit", file, "--check", command, "--plant", "2", "--json", "-")
    assert result.code == 1
    assert result.json["score"] == 0
    assert result.json["command"] == command
    result = rosetta("audit", file, "--check", command, "--tolerance", "1e-3")
    assert result.code == 2
    assert "its own" in result.err
