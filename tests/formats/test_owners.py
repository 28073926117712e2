"""Every row of "I have a file from …" in docs/formats.md: its command reads files like that."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from shared.formats.owners import OWNERS
from tests.cli_runner import Rosetta
from tests.formats.inside_files import bits, truth
from tests.formats.owner_files import CASES, keras_model
from tests.zoo import in_zoo


def run(owner: str, path: Path, rosetta: Rosetta) -> Path:
    """What the row's command makes of a file."""
    target = path.with_name("to.safetensors")
    words = {"FILE": str(path), "TO": str(target)}
    program, *arguments = (words.get(w, w) for w in shlex.split(OWNERS[owner].command))
    assert program == "rosetta"
    result = rosetta(*arguments)
    assert (result.code, result.err) == (0, ""), result
    return target


@pytest.mark.parametrize("case", CASES)
def test_a_file_is_read_by_the_command_of_its_row(
    case: str, tmp_path: Path, rosetta: Rosetta
) -> None:
    owner, write, seed, classes = CASES[case]
    assert bits(run(owner, write(tmp_path), rosetta)) == truth(seed, classes)


@pytest.mark.parametrize("suffix", [".keras", in_zoo(".h5"), ".weights.h5"])
def test_a_fine_tuned_keras_model(suffix: str, tmp_path: Path, rosetta: Rosetta) -> None:
    """Its layers are named by Keras, and its weights are what Keras drew."""
    target = run("keras", keras_model(suffix)(tmp_path), rosetta)
    assert bits(target)["head.bias"] == bytes(4 * 5)
    if suffix != ".weights.h5":  # which does not say what its model does with images
        arguments = ("no.png", "--weights", tmp_path / f"file{suffix}", "--framework", "reference")
        rosetta("predict", *arguments).refused("prepares the images itself", "--preprocessing")
    said = rosetta("convert", tmp_path / f"file{suffix}", target).out
    for layer in ("RandomFlip", "Rescaling", "dropout", "softmax behind the classifier"):
        assert (layer in said) == (suffix != ".weights.h5")


def test_every_row_is_tried() -> None:
    assert {case.owner for case in CASES.values()} | {"keras"} == OWNERS.keys()
