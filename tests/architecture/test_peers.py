"""The definitions are the peers': the same weights give the same logits in torchvision and timm.

Every preset's tensors are compared with the peer's, name by name and shape by shape; logits are
compared in float64 for the presets of each kind of block, stem and shortcut at full width and
depth. Deeper presets differ from those by their depths only.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from resnet_torch import ResNet
from shared import ResNetSpec, SpecError, get_spec, make_plan, probe_weights
from tests.peers import import_timm, import_torchvision
from tests.probes import PRESETS, images_for, relative_error
from tests.zoo import in_zoo, rest_in_zoo

# Float64 logits of one function in one framework. Measured over this file: equal to the last bit,
# but for standardised weights, where the order of the sums differs: 1.5e-14.
PEER_LIMIT = 1e-13

# The smallest deviation of a definition that has been seen in the wild, an eps of 1.001e-5 for
# 1e-5, moves the logits by 5e-8; a stride or a pad moves them by 8 %.
NOTICED = 1e-9

SIZE = (64, 65)  # padding conventions differ on even sides, ceil modes on odd ones

COUNTER = "num_batches_tracked"  # PyTorch's, and no part of the function


# Canonical layer -> the peer's layer: rows of pattern and replacement, the first match counts.
# Sources: torchvision/models/resnet.py; timm/models/resnet.py and resnetv2.py.
Table = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def _stage(suffix: str) -> Callable[[re.Match[str]], str]:
    """torchvision counts stages from 1 and calls them layers."""
    return lambda match: f"layer{int(match[1]) + 1}.{match[2]}.{match.expand(suffix)}"


_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."
TORCHVISION: Table = (
    (r"stem\.conv1", "conv1"),
    (r"stem\.norm1", "bn1"),
    (_BLOCK + r"conv(\d)", _stage(r"conv\3")),
    (_BLOCK + r"norm(\d)", _stage(r"bn\3")),
    (_BLOCK + r"shortcut\.conv", _stage("downsample.0")),
    (_BLOCK + r"shortcut\.norm", _stage("downsample.1")),
    (r"head", "fc"),
)
DEEP_STEM: Table = (
    (r"stem\.conv1", "conv1.0"),
    (r"stem\.norm1", "conv1.1"),
    (r"stem\.conv2", "conv1.3"),
    (r"stem\.norm2", "conv1.4"),
    (r"stem\.conv3", "conv1.6"),
    (r"stem\.norm3", "bn1"),
)
AVG_DOWN: Table = (
    (_BLOCK + r"shortcut\.conv", _stage("downsample.1")),
    (_BLOCK + r"shortcut\.norm", _stage("downsample.2")),
)
RESNETV2: Table = (
    (r"stem\.conv1", "stem.conv"),
    (_BLOCK + r"((?:conv|norm)\d)", r"stages.\1.blocks.\2.\3"),
    (_BLOCK + r"shortcut\.conv", r"stages.\1.blocks.\2.downsample.conv"),
    (r"final_norm", "norm"),
    (r"head", "head.fc"),
)
RESNETV2_DEEP_STEM: Table = ((r"stem\.(conv|norm)(\d)", r"stem.\1\2"),)


def table_for(spec: ResNetSpec) -> Table:
    """The peer's names for `spec`."""
    deep = len(spec.stem.convs) > 1
    if spec.block.order == "full_pre":
        return (RESNETV2_DEEP_STEM if deep else ()) + RESNETV2
    return (
        (DEEP_STEM if deep else ())
        + (AVG_DOWN if spec.shortcut.pool == "avg" else ())
        + TORCHVISION
    )


def peer_name(tensor: str, table: Table) -> str:
    layer, _, leaf = tensor.rpartition(".")
    for pattern, replacement in table:
        match = re.fullmatch(pattern, layer)
        if match:
            name = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            return f"{name}.{leaf}"
    raise KeyError(f"the peer has no layer for {layer}")


def device_for(spec: ResNetSpec) -> torch.device:
    """Without memory, but where there are buffers that no state dict fills."""
    return torch.device("cpu" if spec.anti_alias == "blur" else "meta")


def make_peer(preset: str, **options: object) -> torch.nn.Module:
    """The peer's own network of that name."""
    family, _, name = preset.partition("/")
    with device_for(get_spec(preset)):
        if family == "torchvision":
            import_torchvision()
            import torchvision

            return getattr(torchvision.models, name)(**options)
        return import_timm().create_model(name, pretrained=False, **options)


@functools.lru_cache(maxsize=2)
def float64_weights(preset: str) -> dict[str, torch.Tensor]:
    """Canonical probe weights; stride and dilation do not change them."""
    return {
        name: torch.from_numpy(array)
        for name, array in probe_weights(get_spec(preset), dtype="float64").items()
    }


def peer_state(preset: str, peer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The probe weights under the peer's names; its head may be a 1 x 1 convolution."""
    table, shapes = (
        table_for(get_spec(preset)),
        {name: tensor.shape for name, tensor in peer.state_dict().items()},
    )
    state = {peer_name(name, table): tensor for name, tensor in float64_weights(preset).items()}
    if "head.fc.weight" in state:
        state["head.fc.weight"] = state["head.fc.weight"][:, :, None, None]
    return state | {name: torch.tensor(0) for name in shapes if name.endswith(COUNTER)}


@pytest.mark.parametrize("size", [240, (64, 72)], ids=str)
@pytest.mark.parametrize("preset", ["timm/resnetaa50", "timm/resnetaa50d"])
def test_sizes_that_timm_cannot_run_are_refused(preset: str, size: int | tuple[int, int]) -> None:
    """Its branch and its shortcut have different sizes there, and ours says so beforehand."""
    height, width = (size, size) if isinstance(size, int) else size
    with pytest.raises(RuntimeError, match=r"must match the size|broadcast"):
        make_peer(preset).eval()(torch.zeros(1, 3, height, width, device="meta"))
    with pytest.raises(SpecError, match="its shortcut has"):
        make_plan(get_spec(preset), size)


def error_against_peer(preset: str, spec: ResNetSpec, **options: object) -> float:
    """Between the peer's float64 logits and those of `resnet_torch` for `spec`, under the same
    weights.
    """
    peer = make_peer(preset, **options)
    peer.load_state_dict(peer_state(preset, peer), strict=True, assign=True)
    with device_for(spec):
        model = ResNet(make_plan(spec))
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith(COUNTER)}
    model.load_state_dict(float64_weights(preset) | counters, strict=True, assign=True)

    images = torch.from_numpy(images_for(spec, SIZE)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found, expected = (m.double().eval()(images).numpy() for m in (model, peer))
    return relative_error(found, expected)


OF_PEERS = [name for name in PRESETS if name.startswith(("torchvision/", "timm/"))]


@pytest.mark.parametrize("preset", rest_in_zoo(OF_PEERS, OF_PEERS[::4]))
def test_tensors_are_the_peers(preset: str) -> None:
    """Same tensors and shapes under the table's names, with none left over on either side."""
    table = table_for(get_spec(preset))
    ours = {
        peer_name(name, table): tuple(shape)
        for name, shape in make_plan(get_spec(preset)).tensors.items()
    }
    peers = {
        name: tuple(tensor.shape)
        for name, tensor in make_peer(preset).state_dict().items()
        if not name.endswith(COUNTER)
    }
    if "head.fc.weight" in ours:
        ours["head.fc.weight"] += (1, 1)
    assert ours == peers


COMPUTED = (
    "torchvision/resnet18",
    "torchvision/resnet34",
    "torchvision/resnet50",
    "torchvision/resnext50_32x4d",
    "torchvision/wide_resnet50_2",
    "timm/resnet10t",
    "timm/resnet18d",
    "timm/resnet26t",
    "timm/resnet34",
    "timm/resnet50c",
    "timm/resnet50s",
    "timm/resnet50t",
    "timm/resnet50d",
    "timm/resnet50_gn",
    "timm/resnext50_32x4d",
    "timm/resnetaa34d",
    "timm/resnetaa50",
    "timm/resnetaa50d",
    "timm/resnetaa101d",
    "timm/resnetblur18",
    "timm/resnetblur50",
    "timm/resnetblur50d",
    "timm/resnetblur101d",
    "timm/resnetv2_18",
    "timm/resnetv2_34",
    "timm/resnetv2_50",
    "timm/resnetv2_50d",
    "timm/resnetv2_50t",
    "timm/resnetv2_50x1_bit",
    "timm/resnetv2_50d_gn",
)
# V1 with each stem and kind of anti-aliasing, and V2. Every kind of block, shortcut and norm runs
# narrower in `tests.formats.test_oracles_small`.
COMPUTED_SHORT = {
    *("torchvision/resnet18", "timm/resnet10t", "timm/resnetaa34d", "timm/resnetaa50"),
    *("timm/resnetblur18", "timm/resnetv2_18"),
}


@pytest.mark.parametrize("preset", rest_in_zoo(COMPUTED, COMPUTED_SHORT))
def test_logits_are_the_peers(preset: str) -> None:
    assert error_against_peer(preset, get_spec(preset)) <= PEER_LIMIT


# timm's output_stride trades the strides of the last stages for dilation.
OUTPUT_STRIDES = {8: (False, False, True, True), 16: (False, False, False, True)}


DILATED = (
    "timm/resnet50",
    "timm/resnet50d",
    "timm/resnetaa50",
    "timm/resnetblur50",
    "timm/resnetblur50d",
    "timm/resnetv2_50",
    "timm/resnetv2_50d",
)
# V1 and V2. torchvision's, below, are dilated from the second stage on.
DILATED_SHORT = [("timm/resnetblur50d", 16), ("timm/resnetv2_50d", 16)]


@pytest.mark.parametrize(
    ("preset", "output_stride"),
    rest_in_zoo([*itertools.product(DILATED, OUTPUT_STRIDES)], DILATED_SHORT),
)
def test_dilation_is_timms_output_stride(preset: str, output_stride: int) -> None:
    spec = get_spec(preset, dilate=OUTPUT_STRIDES[output_stride])
    assert error_against_peer(preset, spec, output_stride=output_stride) <= PEER_LIMIT


@pytest.mark.parametrize(
    "replaced",
    [in_zoo(((False, False, True),)), in_zoo(((False, True, True),)), (True, False, True)],
    ids=lambda flags: "".join("FT"[flag] for flag in flags),
)
def test_dilation_is_torchvisions(replaced: tuple[bool, ...]) -> None:
    spec = get_spec("torchvision/resnet50", dilate=(False, *replaced))
    error = error_against_peer("torchvision/resnet50", spec, replace_stride_with_dilation=replaced)
    assert error <= PEER_LIMIT


@pytest.mark.parametrize(
    "changes",
    [
        {"block.stride_conv": 1},
        {"block.padding": "same"},
        {"stem.padding": "same"},
        {"stem.pool_padding": "same"},
        {"stem.pool_padding": "ceil"},
        {"anti_alias": "average"},
        {"anti_alias": "blur"},
        {"norm.eps": 1.001e-5},
    ],
    ids=str,
)
def test_a_definition_that_deviates_is_noticed(changes: dict) -> None:
    """Each of these takes the same weights and gives logits of the same shape."""
    preset = f"torchvision/resnet{50 if 'block.stride_conv' in changes else 18}"
    assert error_against_peer(preset, get_spec(preset, **changes)) > NOTICED
