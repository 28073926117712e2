"""Trained weights: akamaster's ResNet-20 gives the known 915 of 1000, and after a way through all
of our formats.

The file and the pictures are looked for in the folder that the environment variable
ROSETTA_TEST_DATA names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from shared.architecture.preprocessing import PREPROCESSING
from shared.errors import RosettaError
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.containers.registry import CONTAINERS
from shared.formats.convert import convert
from shared.naming.schemes import FORMATS
from tests.formats.oracles import FRAMEWORKS, outputs_in
from tests.probes import same_weights

if not os.environ.get("ROSETTA_TEST_DATA"):
    pytest.skip(
        "ROSETTA_TEST_DATA, the folder of real weights and pictures, is not set",
        allow_module_level=True,
    )

DATA = Path(os.environ["ROSETTA_TEST_DATA"])
RIGHT = 915  # of 1000

# (format, container, file or folder): all that can hold the network, one after the other.
CHAIN = (
    ("canonical", "safetensors", "first.safetensors"),
    ("torch", "torch", "own.pth"),
    ("torch", "safetensors", "own.safetensors"),
    ("akamaster", "torch", "akamaster.th"),
    ("akamaster", "safetensors", "akamaster.safetensors"),
    ("keras", "keras-weights", "own.weights.h5"),
    ("keras", "keras", "own.keras"),
    ("keras", "hdf5", "own.h5"),
    ("keras", "tfjs", "tfjs"),
    ("nnx", "safetensors", "nnx.safetensors"),
    ("nnx", "orbax", "orbax"),
    ("canonical", "safetensors", "last.safetensors"),
)
OWN = {"torch": "own.pth", "keras": "own.keras", "flax": "orbax"}  # a framework's own kind of file


@pytest.fixture(scope="module")
def original() -> Checkpoint:
    return open_checkpoint(DATA / "akamaster" / "resnet20-12fca82f.th")


@pytest.fixture(scope="module")
def pictures(original: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """1000 test images of CIFAR-10 as the checkpoint says that it wants them, and their labels."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.asarray(image.open(DATA / "cifar10" / "test_0000_0999.png")).reshape(
        1000, 32, 32, 3
    )
    divisor, mean, std, _ = PREPROCESSING[original.preprocessing]
    labels = np.loadtxt(DATA / "cifar10" / "test_0000_0999_labels.txt", dtype=int)
    return ((pixels / divisor - mean) / std).astype(np.float32), labels


@pytest.fixture(scope="module")
def chain(original: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Every link, made from the one before it."""
    folder, links, source = tmp_path_factory.mktemp("chain"), {}, original
    for to, _, name in CHAIN:
        convert(source, folder / name, to)
        source = links[name] = open_checkpoint(folder / name)
    return links


def right(framework: str, checkpoint: Checkpoint, pictures: tuple[np.ndarray, np.ndarray]) -> int:
    images, labels = pictures
    return int((outputs_in(framework, checkpoint, images).argmax(1) == labels).sum())


def test_it_is_known(original: Checkpoint) -> None:
    assert (original.format.name, original.preset) == ("akamaster", "cifar/resnet20")
    assert original.identified_by == "tensors"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_is_right(
    framework: str, original: Checkpoint, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    pytest.importorskip({"torch": "torch", "keras": "keras", "flax": "flax"}[framework])
    assert right(framework, original, pictures) == RIGHT


def test_every_link_has_the_same_weights(
    original: Checkpoint, chain: dict[str, Checkpoint]
) -> None:
    weights = original.weights()
    for (to, container, name), link in zip(CHAIN, chain.values(), strict=True):
        seen = (
            "canonical" if (to, container) == ("torch", "safetensors") else to
        )  # the names are the same
        assert (link.format.name, link.archive.container) == (seen, container), name
        assert link.spec == original.spec, name
        assert same_weights(link.weights(), weights), name


def test_the_last_file_is_the_first(chain: dict[str, Checkpoint]) -> None:
    first, last = chain["first.safetensors"].path, chain["last.safetensors"].path
    assert last.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_is_right_after_the_chain(
    framework: str, chain: dict[str, Checkpoint], pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    assert right(framework, chain[OWN[framework]], pictures) == RIGHT


def test_the_chain_is_all_that_can_hold_it(original: Checkpoint, tmp_path: Path) -> None:
    """Every other format refuses the network, and leaves nothing behind."""
    held = set()
    for f in FORMATS.values():
        for container in (CONTAINERS[name] for name in f.containers if name not in f.read_only):
            output = tmp_path / f"{f.name}-{container.name}{next(iter(container.suffixes), '')}"
            try:
                convert(original, output, f.name)
            except RosettaError:
                assert not list(tmp_path.glob(f"*{output.name}*"))
            else:
                held.add((f.name, container.name))
    assert held == {(to, container) for to, container, _ in CHAIN}


def test_zeros_on_the_other_side_are_noticed(
    original: Checkpoint, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    """Paper and most other ports append them; the weights fit, and the score is another."""
    pytest.importorskip("torch")
    wrong = open_checkpoint(original.path, changes={"shortcut.zero_pad": "tail"})
    assert right("torch", wrong, pictures) != RIGHT
