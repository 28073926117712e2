"""Words for what is no plain ResNet: one with something more inside, and other networks.

Told by names where projects have their own, by shapes where they have not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.architecture.ops import Shape
from shared.recognition.layers import (
    BIAS,
    LAYOUTS,
    WEIGHT,
    Layer,
    Tensor,
    layout_of,
    oriented,
    read_layers,
)
from shared.recognition.names import parts_of


class Mark(NamedTuple):
    """A word for a network, and the parts of names, between dots, by which it is known."""

    word: str
    pattern: re.Pattern[str]


def _mark(word: str, pattern: str) -> Mark:
    return Mark(word, re.compile(rf"(?:.*[._])?(?:{pattern})(?:[._].*)?"))


QUANTISED = _mark(
    "quantised tensors",
    r"zero_point|\w*packed_params|\w*fake_quant|activation_post_process|SCB|quant_map|qweight|"
    r"qzeros|weight_scale",
)
# Something more inside the blocks of a ResNet; the first that fits is told.
INSIDE = (
    QUANTISED,
    _mark("selective kernels (SKNet)", r"fc_select|fc_reduce|conv\d\.paths|sk(conv|unit|module)?"),
    _mark(
        "split attention (ResNeSt)", r"conv2\.(bn0|fc1|fc2)|splat\w*|radix\w*|layer\d\.\d+\.conv2\.conv"
    ),
    _mark("the split 3 x 3 convolutions of Res2Net", r"(convs|bns)\.\d+\.(weight|running_mean)"),
    _mark("convolutional block attention (CBAM)", r"cbam|ca|sa|se\.(channel|spatial)|spatial_?att\w*"),
    _mark("efficient channel attention (ECA)", r"eca\w*"),
    _mark("global context attention (GCNet)", r"gc|gcb|conv_attn|mlp_add|mlp_mul|channel_(add|mul)_conv"),
    _mark("non-local attention", r"non_?local\w*"),
    _mark("squeeze-and-excitation", r"se\d?|se_?(module|layer|block|net)\w*|squeeze\w*|excit\w*"),
    _mark(
        "attention",
        r"\w*attn\w*|\w*attention\w*|mhsa|qkv|to_qkv|rel_(h|w|pos)\w*|bam|conv_lambdas|lambda\w*|pos_embed",
    ),
    _mark("deformable convolutions", r"\w*conv_?\d?_offset|offset(_conv)?\.weight|\w*dcn\w*"),
    _mark("anti-aliasing filters (blur pools)", r"filt|blur\w*"),
    _mark("parametric ReLUs", r"prelu\w*"),
    _mark("scaled weights without norms (NFNet)", r"gain|skipinit_gain"),
    _mark("another normalisation than batch or group", r"tau|(norm|bn)\d?\.(v|eps)|running_(max|min)"),
    _mark(
        "parametrised weights (weight or spectral normalisation)",
        r"weight_[guv]|weight_orig|parametrizations",
    ),
    _mark("pruning masks", r"weight_mask|mask"),
    _mark("adapters", r"lora_\w+|adapters?"),
    _mark("cross-stage partial connections (CSPNet)", r"conv_exp|conv_transition(_b)?"),
)
# Something more around the blocks that makes another function of the whole.
AROUND = (
    _mark(
        "attention pooling (CLIP's ModifiedResNet, which also has average pools for strides)",
        r"attn_?pool|attention_?pool\w*|visual\.conv3|visual\.bn3",
    ),
    _mark(
        "the names of timm's ByobNet, whose ResNets have SiLU activations or other pools",
        r"conv\d_(1x1|kxk)\.\w+",
    ),
    _mark("a convolution for a max pool (ResNet-RS)", r"maxpool\.0"),
    _mark("non-local attention", r"non_?local\w*"),
)
# Other networks, by the names of their best-known implementations.
OTHERS = (
    _mark("a Swin transformer", r"relative_position_bias_table"),
    _mark("a text transformer", r"word_embeddings|wte|tok_embeddings|embed_tokens"),
    _mark("a vision transformer (ViT)", r"cls_token|class_token|pos_embed|(blocks|layers?|encoder)\.\d+\.attn\.qkv|"
          r"self_attention|attention\.(attention|self|output)"),
    _mark("an MLP-Mixer", r"mlp_tokens|token_mixing|linear_tokens"),
    _mark("SqueezeNet", r"expand(1x1|3x3)|fire\d*"),
    _mark("DenseNet", r"denseblock\w*|denselayer\w*|dense_?block\w*|conv\d_block\d+_concat"),
    _mark("HRNet", r"fuse_layers|transition\d|stage\d\.\d+\.branches"),
    _mark("RepVGG", r"rbr_(dense|1x1|identity|reparam)|reparam_conv"),
    _mark("Inception", r"Mixed_\d\w|inception\w*|branch\dx\d\w*"),
    _mark("ConvNeXt", r"dwconv|pwconv\d|conv_dw\.weight_never"),
    _mark("NFNet", r"skipinit_gain|gain"),
    _mark("RegNet", r"trunk_output|s\d\.b\d+\.conv\d|block\d-\d+"),
    _mark("a U-Net", r"up_?conv\w*\.never"),
    _mark("DLA", r"tree\d|level\d\.root"),
    _mark("VoVNet", r"conv_concat|conv_mid"),
    _mark("a dual path network (DPN)", r"c1x1_[abcw]\w*|conv\d_\d+\.c\dx\d_\w+"),
)


def word_for(
    names: Iterable[str], shapes: Mapping[str, Shape], *, surrounding: bool = False
) -> str | None:
    """What the names are of, beside a ResNet's own; with the first of them.

    `surrounding`: names around blocks, not inside.
    """
    names = list(names)
    found = _first(AROUND if surrounding else INSIDE, names)
    if found or surrounding:
        return found
    small = [name for name in names if _is_small(name, names, shapes)]
    if small:
        return f"squeeze-and-excitation or another attention inside its blocks, as {small[0]}"
    return None


def _first(marks: Sequence[Mark], names: Sequence[str]) -> str | None:
    dotted = {name: ".".join(parts_of(name)) for name in names}
    for mark in marks:
        for name, parts in dotted.items():
            if mark.pattern.fullmatch(parts):
                return f"{mark.word}, as {name}"
    return None


def _is_small(name: str, names: Sequence[str], shapes: Mapping[str, Shape]) -> bool:
    """Whether a matrix narrows the channels and another one widens them again."""
    turned = [sorted(n for n in shapes[other] if n > 1) for other in names if len(shapes[other]) in (2, 4)]
    own = sorted(n for n in shapes[name] if n > 1)
    return len(own) == 2 and own[0] < own[1] and turned.count(own) >= 2 and len(shapes[name]) in (2, 4)


def explain(tensors: Mapping[str, Tensor], refused: Sequence[tuple[str, str]] = ()) -> str | None:
    """Why there is no ResNet, in words for what there is; None where nothing tells."""
    names = list(tensors)
    if word := _first((QUANTISED,), names):
        return f"it has {word}"
    ints = [n for n, t in tensors.items() if len(t.shape) == 4 and t.dtype.kind in "iu"]
    if ints:
        return f"it has quantised tensors: {ints[0]} is {tensors[ints[0]].dtype}"
    if word := _first(OTHERS, names):
        name, _, example = word.partition(", as ")
        return f"it is {name}, by names as {example}"
    for marks in (AROUND, INSIDE):
        if word := _first(marks, names):
            return f"it has {word}"
    if refused:
        return "it has " + refused[0][1] if refused[0][1].startswith("squeeze") else refused[0][1]
    return _by_shapes(read_layers(tensors))


def _by_shapes(layers: Sequence[Layer]) -> str | None:
    convs = [layer for layer in layers if layer.kind == "conv"]
    if not convs:
        return "it has no convolutions"
    layout, _ = layout_of(list(layers))
    turned = {layer: oriented(layer.shapes[WEIGHT], layout.kernel_axes) for layer in convs}
    deep = [la for la, (out, i, h, _) in turned.items() if i == 1 < out and h > 1]
    if len(deep) > 1:
        word = "ConvNeXt" if any(turned[la][2] == 7 for la in deep) else "MobileNet and EfficientNet"
        return f"it has depthwise convolutions, as {word} have: {deep[0].names[WEIGHT]}"
    oblong = [la for la, (_, _, h, w) in turned.items() if h != w]
    if oblong:
        return f"it has kernels that are not square, as Inception: {oblong[0].names[WEIGHT]}"
    if all(BIAS in la.shapes for la in convs) and not any(la.kind == "norm" for la in layers):
        return (
            "it has no norms, but a bias at every convolution: plain convolutions (as VGG), or "
            "batch norms that were folded into them, which cannot be undone"
        )
    if all(h > 1 for _, _, h, _ in turned.values()):
        return "it has nothing but 3 x 3 convolutions in a row, and no shortcut, as VGG"
    return None


__all__ = ["LAYOUTS", "explain", "word_for"]
