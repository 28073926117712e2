"""Every attack is refused: with its own words, quickly, in little memory, and without a trace."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.attacks import seeds
from tests.attacks.attack import SECRET, Placement
from tests.attacks.check import MEMORY, SECONDS, snapshot, verdict, wrong_line
from tests.attacks.corpus import ATTACKS
from tests.attacks.headers import packed, parts
from tests.attacks.pickles import by_the_library, called, setstate
from tests.attacks.watch import Guard, Outcome, Watcher, attempt, watching
from tests.cli_runner import Rosetta, run_program
from tests.zoo import rest_in_zoo

PATIENCE = 3.0  # machines are shared; `python -m tests.attacks` holds to `SECONDS`
CHILDREN = (
    "hdf5",
    "keras",
    "orbax",
    "cut-hdf5",
    "cut-weights",
    "cut-keras",
)  # read in a process of their own
NETWORKS = ("openvino", "litert")  # of which `convert` reads none
CHEAP = [name for name in ATTACKS if not name.startswith((*CHILDREN, *NETWORKS))]
SANDBOXED = [name for name in ATTACKS if name.startswith(CHILDREN)]
UNSPEAKABLE = "path-null-in-the-path"  # on a command line
# Which both commands are given.
COMMANDED = [name for name in CHEAP[::2] + SANDBOXED[::6] if name != UNSPEAKABLE]
COMMANDED_SHORT = CHEAP[2::6] + SANDBOXED[::12]
PROGRAMS = COMMANDED[::24]  # each starts an interpreter
# What `inspect` does not read.
IN_THE_VALUES = {
    f"safetensors-{name}"
    for name in ("nan", "infinite", "negative-variance", "other-digests", "digests-of-depth")
} | {
    *("tensorflow-values-crc", "tensorflow-stored-crc", "tensorflow-old-few-values"),
    *("tensorflow-old-other-name", "arrays-no-latin-1", "onnx-halves-without-end"),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return seeds.make_all(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def watcher(valid: dict[str, Path]) -> Iterator[Watcher]:
    with watching([valid[kind] for kind in seeds.WARM], forked=True) as process:
        yield process


@pytest.fixture(scope="module")
def base(watcher: Watcher, valid: dict[str, Path]) -> int:
    return memory(watcher, valid)


def memory(watcher: Watcher, valid: dict[str, Path]) -> int:
    """Of a reading process for a valid file."""
    return max(watcher.open(valid[kind]).children for kind in seeds.SANDBOXED)


def test_there_are_enough() -> None:
    assert len(ATTACKS) >= 60
    assert len(COMMANDED) >= len(ATTACKS) // 3
    assert all(any(attack.words) for name, attack in ATTACKS.items() if not name.startswith("cut-"))


@pytest.mark.parametrize("kind", seeds.SEEDS)
def test_what_attacks_are_made_of_is_read(
    watcher: Watcher, valid: dict[str, Path], base: int, kind: str
) -> None:
    """Else they would be refused for another reason."""
    outcome = watcher.open(valid[kind])
    assert (outcome.kind, outcome.events) == ("read", []), outcome


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(watcher: Watcher, base: int, tmp_path: Path, name: str) -> None:
    assert judged(watcher, base, tmp_path, name) == []


def judged(watcher: Watcher, base: int, folder: Path, name: str) -> list[str]:
    place = Placement.make(folder / "attack")
    path = ATTACKS[name].make(place)
    before = snapshot(place.inside.parent)
    return verdict(ATTACKS[name], path, place, before, watcher.open(path), base, PATIENCE)


@pytest.mark.zoo  # in the short run, the command below starts the readers of some
def test_refused_by_readers_that_are_started(valid: dict[str, Path], tmp_path: Path) -> None:
    with watching([valid[kind] for kind in seeds.WARM]) as watcher:
        base = memory(watcher, valid)
        found = {name: judged(watcher, base, tmp_path / name, name) for name in SANDBOXED}
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize("name", rest_in_zoo(COMMANDED, COMMANDED_SHORT))
def test_refused_by_the_command(rosetta: Rosetta, tmp_path: Path, name: str) -> None:
    """Both commands: one line on standard error, code 2, nothing written."""
    place = Placement.make(tmp_path / "attack")
    path = ATTACKS[name].make(place)
    before = snapshot(tmp_path)
    rosetta("convert", path, tmp_path / "out.safetensors").refused(*ATTACKS[name].words)
    if name in CHEAP and name not in IN_THE_VALUES:
        rosetta("inspect", path, "--json", "-").refused(*ATTACKS[name].words)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", rest_in_zoo(PROGRAMS, PROGRAMS[::3]))
def test_refused_by_the_program(tmp_path: Path, name: str) -> None:
    place = Placement.make(tmp_path / "attack")
    path = ATTACKS[name].make(place)
    before = snapshot(tmp_path)
    run_program("convert", path, tmp_path / "out.safetensors").refused(*ATTACKS[name].words)
    assert snapshot(tmp_path) == before


# That the tests can fail.


def test_a_secret_in_a_tensor_is_seen(tmp_path: Path) -> None:
    header, data = parts()
    path = tmp_path / "net.safetensors"
    path.write_bytes(packed(json.dumps(header).encode(), SECRET + data[len(SECRET) :]))
    assert np.isfinite(np.frombuffer(SECRET, "<f4")).all()
    assert attempt(path) == ("leaked", "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "read"}, "not refused"),
        ({"kind": "builtins.KeyError"}, "not refused"),
        ({"message": "some other words"}, "does not say"),
        ({"message": "{path}: two\nlines os.system nothing was run"}, "not one line"),
        ({"seconds": SECONDS * PATIENCE + 1}, "took 7.0 s"),
        ({"own": MEMORY * 2}, "400 MiB"),
        ({"children": MEMORY * 3}, "MiB over"),
        ({"events": ["os.system (b'touch',)"]}, "did os.system"),
    ],
)
def test_a_verdict_can_be_guilty(tmp_path: Path, changes: dict, said: str) -> None:
    attack, place = ATTACKS["pickle-reduce"], Placement.make(tmp_path)
    path = attack.make(place)
    before = snapshot(tmp_path)
    good = Outcome("CheckpointError", f"{path}: os.system nothing was run", 0.1, 0, 0, [])
    assert verdict(attack, path, place, before, good, MEMORY, PATIENCE) == []
    changes = {key: v.format(path=path) if isinstance(v, str) else v for key, v in changes.items()}
    found = verdict(attack, path, place, before, good._replace(**changes), MEMORY, PATIENCE)
    assert any(said in problem for problem in found), found


def test_what_code_leaves_is_seen(tmp_path: Path) -> None:
    attack, place = ATTACKS["pickle-reduce"], Placement.make(tmp_path)
    path = attack.make(place)
    before = snapshot(tmp_path)
    place.executed.touch()
    good = Outcome("CheckpointError", f"{path}: os.system nothing was run", 0.1, 0, 0, [])
    assert verdict(attack, path, place, before, good, 0) == ["ran code", "changed files"]


def test_the_guard_sees_what_python_does(
    watcher: Watcher, valid: dict[str, Path], tmp_path: Path
) -> None:
    guard = Guard.__new__(Guard)
    for event, arguments in (
        ("os.system", (b"true",)),
        ("subprocess.Popen", ("/bin/sh", ["sh", "-c", "true"], None, None)),
        ("socket.connect", (None, ("127.0.0.1", 1))),
        ("pickle.find_class", ("os", "system")),
        ("compile", (b"1", "<string>")),
        ("open", (str(tmp_path / "x"), "w", 0)),
        ("open", (str(tmp_path / "outside" / "secret.bin"), "r", 0)),
    ):
        assert guard._wrong(event, arguments), event
    assert not guard._wrong("open", (str(valid["safetensors"]), "rb", 0))


def test_the_attacks_do_run_code_elsewhere(tmp_path: Path) -> None:
    """Python's own unpickler falls for them, so there is something to refuse."""
    place = Placement.make(tmp_path)
    for number, code in enumerate((called("os", "system"), setstate)):
        pickle.loads(b"\x80\x02" + code(place) + b".")  # noqa: S301 - which is the point
        assert place.executed.exists(), number
        place.executed.unlink()
    pickle.loads(by_the_library(place))  # noqa: S301
    assert place.executed.exists()


def test_a_long_or_nameless_message_is_wrong() -> None:
    assert wrong_line("", Path("/a/b"))
    assert wrong_line("/c: no", Path("/a/b"))
    assert wrong_line(f"/a/b: {'x' * 5000}", Path("/a/b"))
    assert not wrong_line("/a/b: no", Path("/a/b"))
