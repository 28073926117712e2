"""PyTorch's peers as oracles: what they save runs in ours as in theirs, and what we write runs in
theirs as in ours.

Nothing here goes through a table of names but those under test: a peer's own tensors are filled by
their own names.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from resnet_torch import ResNet
from shared import get_spec, make_plan
from shared.formats.checkpoint import Checkpoint, open_checkpoint
from shared.formats.convert import convert
from shared.naming.infer import same_function
from tests.formats.oracles import PEER_LIMIT, peer_images, probe_tensor
from tests.peers import import_timm, import_torchvision
from tests.probes import relative_error
from tests.zoo import rest_in_zoo

COUNTER = "num_batches_tracked"

# Networks of more parameters than this are saved as float32, and go back without a canonical file
# on the way.
LARGE = 12e6

# The smallest of the mistakes below, an eps of 1.001e-5 for 1e-5, moves the logits by more than
# this.
NOTICED = 1e-9

State = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone after the test: some files are hundreds of megabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def probe_state(peer: torch.nn.Module) -> State:
    """The peer's own tensors, filled."""
    state = peer.state_dict()
    dtype = "float32" if sum(tensor.numel() for tensor in state.values()) > LARGE else "float64"
    return {
        name: torch.from_numpy(probe_tensor(name, tuple(tensor.shape), dtype))
        if tensor.is_floating_point()
        else torch.tensor(3)
        for name, tensor in state.items()
    }


def our_module(checkpoint: Checkpoint) -> torch.nn.Module:
    """Our network in the memory layout in which peers build theirs."""
    with torch.device("meta"):
        model = ResNet(make_plan(checkpoint.spec))
    state = {name: torch.from_numpy(array) for name, array in checkpoint.arrays()}
    state |= {name: torch.tensor(0) for name in model.state_dict() if name.endswith(COUNTER)}
    model.load_state_dict(state, strict=True, assign=True)
    return model


def logits(model: torch.nn.Module, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Of two images, after a cast of the model."""
    images = torch.from_numpy(peer_images()).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return model.to(dtype).eval()(images.to(dtype))


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return relative_error(found.numpy(), expected.numpy())


def same_state(found: State, expected: State) -> bool:
    """The same tensors bit for bit; batches are not counted on the way."""
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], tensor)
        for name, tensor in expected.items()
        if not name.endswith(COUNTER)
    )


def write_back(checkpoint: Checkpoint, output: Path, to: str) -> None:
    """In a format of the peer's; small networks through a canonical file."""
    if checkpoint.params <= LARGE:
        canonical = output.with_name("canonical.safetensors")
        convert(checkpoint, canonical)
        checkpoint = open_checkpoint(canonical)
    convert(checkpoint, output, to)


TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)


def torchvision_peer(name: str) -> torch.nn.Module:
    """Without memory."""
    import_torchvision()
    import torchvision

    with torch.device("meta"):
        return getattr(torchvision.models, name)()


# The small networks of test_oracles_small have every kind that these have.
@pytest.mark.parametrize("name", rest_in_zoo(TORCHVISION, ("resnet18",)))
def test_torchvision(name: str, folder: Path) -> None:
    peer = torchvision_peer(name)
    state = probe_state(peer)
    peer.load_state_dict(state, strict=True, assign=True)
    torch.save(peer.state_dict(), folder / "peer.pth")

    checkpoint = open_checkpoint(folder / "peer.pth")
    assert (checkpoint.format.name, checkpoint.preset) == ("torchvision", f"torchvision/{name}")
    assert checkpoint.identified_by == "tensors"
    ours = our_module(checkpoint)
    assert error(logits(ours), logits(peer)) <= PEER_LIMIT
    assert torch.equal(logits(ours, torch.float32), logits(peer, torch.float32))

    write_back(checkpoint, folder / "back.pth", "torchvision")
    loaded = torch.load(folder / "back.pth", weights_only=True, mmap=True)
    assert same_state(loaded, state)
    again = torchvision_peer(name)
    again.load_state_dict(loaded, strict=True, assign=True)
    assert torch.equal(logits(again, torch.float32), logits(ours, torch.float32))


TIMM = (
    "resnet18",
    "resnet26d",
    "resnet50c",
    "resnet50s",
    "resnet50t",
    "resnet50d",
    "resnet50_gn",
    "resnext50d_32x4d",
    "resnetv2_18",
    "resnetv2_34",
    "resnetv2_50",
    "resnetv2_101",
    "resnetv2_50d",
    "resnetv2_50t",
    "resnetv2_50d_gn",
    "resnetv2_50x1_bit",
)
SUFFIXES = (".pth", ".safetensors")


def timm_peer(name: str) -> torch.nn.Module:
    """Its memory is as it was found."""
    timm = import_timm()
    with torch.device("meta"):
        peer = timm.create_model(name, pretrained=False)
    return peer.to_empty(device="cpu")


# One of each suffix there and back, the other one back and there.
@pytest.mark.parametrize("name", rest_in_zoo(TIMM, ("resnetv2_18",)))
def test_timm(name: str, folder: Path) -> None:
    timm = import_timm()
    from safetensors.torch import save_file

    turn = TIMM.index(name) % 2
    theirs, written = folder / f"peer{SUFFIXES[turn]}", folder / f"back{SUFFIXES[1 - turn]}"
    peer = timm_peer(name)
    state = probe_state(peer)
    peer.load_state_dict(state, strict=True, assign=True)
    (save_file if turn else torch.save)(peer.state_dict(), theirs)

    checkpoint = open_checkpoint(theirs)
    assert same_function(checkpoint.spec, get_spec(f"timm/{name}")), checkpoint.preset
    expected = logits(peer)
    assert error(logits(our_module(checkpoint)), expected) <= PEER_LIMIT

    write_back(checkpoint, written, "timm")
    again = timm_peer(name).to(next(iter(state.values())).dtype)
    timm.models.load_checkpoint(again, str(written), strict=True)
    assert same_state(again.state_dict(), state)
    assert torch.equal(logits(again), expected)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, torch.Tensor]]:
    """A file of torchvision's ResNet-50, and its logits."""
    folder = tmp_path_factory.mktemp("right")
    peer = torchvision_peer("resnet50")
    peer.load_state_dict(probe_state(peer), strict=True, assign=True)
    torch.save(peer.state_dict(), folder / "peer.pth")
    yield folder / "peer.pth", logits(peer)
    shutil.rmtree(folder)


@pytest.mark.zoo  # small ones: `test_oracles_small`
@pytest.mark.parametrize(
    "changes",
    [
        {"block.stride_conv": 1},
        {"stem.pool_padding": "same"},
        {"norm.eps": 1.001e-5},
        {"stem.padding": "same"},
    ],
    ids=str,
)
def test_a_wrong_convention_is_noticed(changes: dict, right: tuple[Path, torch.Tensor]) -> None:
    """Each takes the same file and gives logits of the same shape."""
    path, expected = right
    wrong = open_checkpoint(path, changes=changes)
    assert error(logits(our_module(wrong)), expected) > NOTICED
