"""What projects' code does that no tensor tells: TensorFlow's official ResNets, SimCLR, TF-slim."""

from __future__ import annotations

import numpy as np
import pytest

from shared import get_spec
from shared.formats.containers.archive import Entry
from shared.recognition.find import survey
from shared.recognition.leftovers import kind_of
from shared.recognition.network import Network
from tests.recognition.dialects import DIALECTS, counted, renamed

CAFFE = DIALECTS["caffe"]


def under(root: str, preset: str) -> Network:
    """The network of a preset whose layers are counted, under a name of its own."""
    spec = get_spec(preset)
    entries, truth = renamed(spec, counted(spec))
    found = survey({f"{root}/{name}": entry for name, entry in entries.items()})
    assert found.taken is not None
    assert found.taken.names == {own: f"{root}/{name}" for own, name in truth.items()}
    return found.taken


@pytest.mark.parametrize(
    "preset", ["tf/resnet50_v1", "tf/resnet18_v1", "tf/resnet50_v2", "tf/cifar_resnet20_v2"]
)
def test_tensorflow_official(preset: str) -> None:
    network = under("resnet_model", preset)
    assert network.preset == preset
    assert network.preprocessing == "tf_official"
    assert "pools SAME" in network.assumes


def test_simclr_is_that_network_on_other_pixels() -> None:
    network = under("base_model", "tf/resnet50_v1")
    assert network.preset == "tf/resnet50_v1"
    assert network.preprocessing == "unit"
    assert "0 to 1" in network.assumes


@pytest.mark.parametrize("official", [True, False])
def test_caffe_names_in_keras_are_told_by_their_biases(official: bool) -> None:
    """Keras' own ResNet-50 of before 2019 has biases, and its stride in the 1x1."""
    entries, _ = renamed(get_spec("tf/resnet50_v1.5" if official else "keras/resnet50"), CAFFE)
    network = survey(entries).taken
    assert network is not None
    assert network.spec.block.stride_conv == (2 if official else 1)
    assert network.preset == ("tf/resnet50_v1.5" if official else "keras2/resnet50")
    assert network.preprocessing == ("tf_official" if official else None)
    assert (network.format is None) == official


def test_names_of_nobody_assume_what_the_framework_does() -> None:
    network = under("my_model", "torchvision/resnet50")
    assert network.spec.stem.padding == "same"
    assert network.preprocessing is None


@pytest.mark.parametrize(("version", "how"), [("v1", "tf_official"), ("v2", "half")])
def test_slim_wants_other_pixels_in_each_version(version: str, how: str) -> None:
    spec = get_spec("torchvision/resnet50" if version == "v1" else "timm/resnetv2_50")
    entries, _ = renamed(spec, DIALECTS["slim"])
    named = {
        name.replace("bottleneck_v1", f"bottleneck_{version}"): entry
        for name, entry in entries.items()
    }
    assert all(isinstance(entry, Entry) for entry in named.values())
    network = survey(named).taken
    assert network is not None
    assert network.preprocessing == how
    assert network.spec.strides == (2, 2, 2, 1)
    assert network.spec.block.stride_block == "last"


def test_norms_into_which_caffe2_has_folded_its_statistics() -> None:
    """As in Detectron's `R-50.pkl`."""
    entries, _ = renamed(get_spec("torchvision/resnet50"), DIALECTS["caffe2"])
    found = survey({n: e for n, e in entries.items() if not n.endswith(("_rm", "_riv"))})
    assert not found.networks
    assert "folded mean and variance" in str(found.word)


def test_the_keys_of_a_generator_are_no_weights() -> None:
    key = Entry.of(np.array([1, 2], "uint32"))
    assert kind_of("state/rng", key) == kind_of("rng_key", key) == "optimizer"
    assert kind_of("conv.kernel", key) is None
