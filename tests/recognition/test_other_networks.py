"""What is no plain ResNet is called by its name."""

from __future__ import annotations

import numpy as np
import pytest

from shared import get_spec
from shared.architecture.presets import miniature
from shared.formats.containers.archive import Entry
from shared.recognition.find import survey
from tests.peers import import_timm
from tests.recognition.dialects import DIALECTS, entry, renamed, unreadable
from tests.recognition.test_find import BODY, net, under
from tests.zoo import rest_in_zoo

# timm's model -> a word of what is said.
TIMM = {
    "seresnet18": "squeeze-and-excitation",
    "legacy_seresnet18": "squeeze-and-excitation",
    "resnetrs50": "squeeze-and-excitation",
    "ecaresnet26t": "channel attention (ECA)",
    "gcresnet33ts": "global context",
    "skresnet18": "selective kernels",
    "resnest14d": "split attention",
    "res2net50_14w_8s": "Res2Net",
    "lambda_resnet26t": "attention",
    "botnet26t_256": "attention",
    "resnet50_clip": "attention pooling",
    "resnet33ts": "ByobNet",
    "nf_resnet26": "NFNet",
    "resnetv2_50d_evos": "another normalisation",
    "resnetv2_50d_frn": "another normalisation",
    "cspresnet50": "CSPNet",
    "vgg16": "no norms",
    "vgg11_bn": "VGG",
    "vit_tiny_patch16_224": "transformer",
    "swin_tiny_patch4_window7_224": "Swin",
    "efficientnet_b0": "depthwise",
    "mobilenetv2_100": "depthwise",
    "convnext_atto": "ConvNeXt",
    "densenet121": "DenseNet",
    "regnetx_002": "RegNet",
    "inception_v3": "Inception",
    "dla34": "DLA",
    "mixer_s16_224": "MLP-Mixer",
}


def shapes_of(model: str) -> dict[str, Entry]:
    timm = import_timm()
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        state = timm.create_model(model).state_dict()
    kinds = {torch.int64: np.dtype(np.int64)}
    return {
        name: Entry(tuple(t.shape), kinds.get(t.dtype, np.dtype(np.float32)), unreadable)
        for name, t in state.items()
    }


@pytest.mark.parametrize("model", rest_in_zoo(TIMM, list(TIMM)[::2]))
def test_other_networks_of_timm(model: str) -> None:
    found = survey(shapes_of(model))
    assert not found.networks
    assert found.word is not None
    assert TIMM[model] in found.word.text
    assert "\n" not in found.word.text


@pytest.mark.parametrize(
    "model",
    ["resnet18", "resnet26d", "resnetv2_50", "resnetaa50", "resnet50_gn", "resnext50_32x4d"],
)
def test_the_words_are_not_said_of_plain_networks(model: str) -> None:
    found = survey(shapes_of(model))
    assert len(found.networks) == 1
    assert found.word is None
    assert not found.refused


@pytest.mark.parametrize(
    ("inside", "shape", "word"),
    [
        ("se.fc1.weight", (4, 32), "squeeze-and-excitation"),
        ("ca.fc.0.weight", (4, 32, 1, 1), "CBAM"),
        ("conv2_offset.weight", (18, 8, 3, 3), "deformable"),
        ("conv2.filt", (8, 1, 3, 3), "anti-aliasing"),
        ("prelu.weight", (8,), "parametric ReLU"),
        ("conv1.weight_mask", (8, 8, 1, 1), "pruning"),
        ("conv1.weight_v", (8, 8, 1, 1), "parametrised"),
        ("conv1.lora_A", (4, 8), "adapters"),
        ("nobody_knows", (8,), "is inside"),
    ],
)
def test_something_more_inside_a_block(inside: str, shape: tuple[int, ...], word: str) -> None:
    """In names that are known and in others."""
    entries = dict(net())
    entries[f"layer1.0.{inside}"] = entry(*shape)
    found = survey(entries)
    assert not found.networks
    assert word in str(found.word)
    spec = miniature(get_spec("torchvision/resnet50"))
    other, _ = renamed(spec, DIALECTS["short"])
    found = survey(other | {f"stage1.0.{inside}": entry(*shape)})
    assert not found.networks
    assert any(word in refused.why for refused in found.refused) or word in str(found.word)


def test_small_layers_without_a_name_are_told_by_their_shapes() -> None:
    entries = dict(net())
    for name, shape in (("x", (4, 32)), ("y", (32, 4))):
        entries[f"layer1.0.{name}.weight"] = entry(*shape)
    assert "another attention" in str(survey(entries).word)


def test_layers_that_narrow_alone_are_no_attention() -> None:
    """An embedding of classes in each norm."""
    entries = dict(net())
    entries |= {f"layer{s}.0.bn1.embed.weight": entry(10, 16) for s in (1, 2, 3)}
    found = survey(entries)
    assert not found.networks
    assert "is inside" in str(found.word)


def test_quantised_kernels() -> None:
    entries = dict(net())
    entries["conv1.weight"] = Entry((8, 3, 7, 7), np.dtype(np.int8), unreadable)
    assert "quantised" in str(survey(entries).word)
    entries = dict(net()) | {"layer1.0.conv1.zero_point": Entry.of(np.int64(3))}
    entries["layer1.0.conv1.scale"] = Entry.of(np.float32(1))
    found = survey(entries)
    assert not found.networks or any("scale" in name for g in found.left for name in g.names)


def test_batch_norms_that_were_folded_into_convolutions() -> None:
    entries = {}
    for name, tensor in BODY.items():
        if len(tensor.shape) == 4:
            entries[name] = tensor
            entries[name.replace("weight", "bias")] = entry(tensor.shape[0])
    assert "folded" in str(survey(entries).word)


def test_attention_pools_are_refused_and_other_parts_are_left() -> None:
    clip = under("visual.", BODY) | {"visual.attnpool.q_proj.weight": entry(64, 64)}
    found = survey(clip)
    assert not found.networks
    assert "attention pooling" in str(found.word)


def test_parts_beside_a_network_do_not_refuse_it() -> None:
    found = survey(under("net.", BODY) | {"text.attention.weight": entry(64, 64)})
    assert len(found.networks) == 1
