"""Words for what is no plain ResNet: one with something more inside, and other networks.

Told by names where projects have their own, by shapes where they have not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.architecture.ops import Shape
from shared.recognition.layers import (
    BIAS,
    LEAVES,
    MAX_KERNEL,
    WEIGHT,
    Layer,
    Tensor,
    layout_of,
    oriented,
    read_layers,
)
from shared.recognition.names import parts_of

_MIN_DEPTHWISE = 3
_MIN_KERNELS = 3


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
    _mark("split attention (ResNeSt)", r"conv2\.(bn0|fc1|fc2)|splat\w*|radix\w*"),
    _mark("the split 3 x 3 convolutions of Res2Net", r"(convs|bns)\.\d+\.(weight|running_mean)"),
    _mark(
        "convolutional block attention (CBAM)", r"cbam|ca|sa|se\.(channel|spatial)|spatial_?att\w*"
    ),
    _mark("efficient channel attention (ECA)", r"eca\w*"),
    _mark(
        "global context attention (GCNet)",
        r"gc|gcb|conv_attn|mlp_add|mlp_mul|channel_(add|mul)_conv",
    ),
    _mark("non-local attention", r"non_?local\w*"),
    _mark(
        "squeeze-and-excitation",
        r"se\d?|attn\.fc\d|se_?(module|layer|block|net)\w*|squeeze\w*|excit\w*",
    ),
    _mark(
        "attention",
        r"\w*attn\w*|\w*attention\w*|mhsa|qkv|to_qkv|rel_(h|w|pos)\w*|bam|conv_lambdas|lambda\w*|"
        r"pos_embed",
    ),
    _mark("deformable convolutions", r"\w*conv_?\d?_offset|offset(_conv)?\.weight|\w*dcn\w*"),
    _mark("anti-aliasing filters (blur pools)", r"filt|blur\w*"),
    _mark("parametric ReLUs", r"prelu\w*"),
    _mark("scaled weights without norms (NFNet)", r"gain|skipinit_gain"),
    _mark(
        "another normalisation than batch or group", r"tau|(norm|bn)\d?\.(v|eps)|running_(max|min)"
    ),
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
        r"attn_?pool|attention_?pool\w*|visual\.conv3|visual\.bn3|head\.(pos_embed|qkv|[qkv])",
    ),
    _mark("a convolution for a max pool (ResNet-RS)", r"maxpool\.0"),
    _mark("non-local attention", r"non_?local\w*"),
    _mark(
        "the names of timm's ByobNet, whose ResNets have SiLU activations or other pools",
        r"conv\d_(1x1|kxk)\.\w+",
    ),
)
# Other networks, by the names of their best-known implementations.
OTHERS = (
    _mark("a Swin transformer", r"relative_position_bias_table"),
    _mark("a text transformer", r"word_embeddings|wte|tok_embeddings|embed_tokens"),
    _mark(
        "a vision transformer (ViT)",
        r"cls_token|class_token|(blocks|layers?|encoder)\.\d+\.attn\.qkv|"
        r"self_attention|attention\.(attention|self|output)",
    ),
    _mark("an MLP-Mixer", r"mlp_tokens|token_mixing|linear_tokens"),
    _mark("SqueezeNet", r"expand(1x1|3x3)|fire\d*"),
    _mark("DenseNet", r"denseblock\w*|denselayer\w*|dense_?block\w*|conv\d_block\d+_concat"),
    _mark("HRNet", r"fuse_layers|transition\d|stage\d\.\d+\.branches"),
    _mark("RepVGG", r"rbr_(dense|1x1|identity|reparam)|reparam_conv"),
    _mark("Inception", r"Mixed_\d\w|inception\w*|branch\dx\d\w*"),
    _mark("ConvNeXt", r"dwconv|pwconv\d"),
    _mark("NFNet", r"skipinit_gain|gain"),
    _mark("RegNet", r"trunk_output|s\d\.b\d+\.conv\d|block\d-\d+"),
    _mark("DLA", r"tree\d|level\d\.root"),
    _mark("VoVNet", r"conv_concat|conv_mid"),
    _mark("a dual path network (DPN)", r"c1x1_[abcw]\w*|conv\d_\d+\.c\dx\d_\w+"),
)


def word_for(
    names: Iterable[str],
    shapes: Mapping[str, Shape],
    *,
    surrounding: bool = False,
    by_names: bool = False,
) -> str | None:
    """What the names are of, beside a ResNet's own; with the first of them.

    `surrounding`: names around blocks, not inside. `by_names`: whatever the shapes are like.
    """
    names = list(names)
    if surrounding:
        return _first(AROUND, names)
    if found := _of_odd_kernels(names, shapes) or _first(INSIDE, names):
        return found
    small = [] if by_names else _small(names, shapes)
    return f"squeeze-and-excitation or another attention, as {small[0]}" if small else None


def _of_odd_kernels(names: Iterable[str], shapes: Mapping[str, Shape]) -> str | None:
    """Efficient channel attention is a one-dimensional convolution over channels."""
    along = [
        name
        for name in names
        if len(shape := shapes[name]) == 3
        and sorted(shape)[:2] == [1, 1]
        and 1 < max(shape) <= MAX_KERNEL
        and LEAVES.get(parts_of(name)[-1]) == WEIGHT
    ]
    return f"efficient channel attention (ECA), as {along[0]}" if along else None


def _first(marks: Sequence[Mark], names: Iterable[str]) -> str | None:
    """The first mark that some name has, and the first of these."""
    found: dict[str, str] = {}
    whole = _any_of(tuple(mark.pattern.pattern for mark in marks))
    for name in names:
        dotted = ".".join(parts_of(name))
        if whole.fullmatch(dotted):
            found.setdefault(next(m.word for m in marks if m.pattern.fullmatch(dotted)), name)
    told = (mark.word for mark in marks if mark.word in found)
    return next((f"{word}, as {found[word]}" for word in told), None)


@functools.cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def _small(names: Sequence[str], shapes: Mapping[str, Shape]) -> list[str]:
    """Matrices that narrow channels, of which others widen them again."""
    sizes = {
        name: tuple(n for n in shapes[name] if n > 1)
        for name in names
        if len(shapes[name]) in (2, 4)
    }
    there = set(sizes.values())
    return [
        name
        for name, size in sizes.items()
        if len(size) == 2 and size[0] != size[1] and size[::-1] in there
    ]


class Word(NamedTuple):
    """Why there is no ResNet. `known`: it says what there is, whatever a naming scheme says."""

    text: str
    known: bool


def explain(
    tensors: Mapping[str, Tensor], aside: Container[str], refused: Sequence[Word] = ()
) -> Word | None:
    """Why there is no ResNet, in words for what there is; None where nothing tells.

    `aside`: names that belong to no network. `refused`: why what is nearly one is none.
    """
    rest = {name: tensor for name, tensor in tensors.items() if name not in aside}
    layers = read_layers(rest)
    if tensors and not rest:
        return Word("it holds an optimizer, counters or settings, and no weights", True)
    if word := _marked(tensors, rest, layers):
        return Word(word, True)
    if found := next((word for word in refused if word.known), None):
        return found
    if all(layer.kind != "conv" for layer in layers):
        return Word(_without_kernels(rest), True)
    if any(layer.kind == "norm" for layer in layers):
        word = refused[0].text if refused else _by_shapes(layers)
        return Word(word, False) if word else None
    if _all_biased(layers):
        return Word(
            "it has no norms, but a bias at every convolution: plain convolutions (as VGG), or "
            "batch norms that were folded into them, which cannot be undone",
            True,
        )
    return Word("it has no norms behind its convolutions, as every ResNet here has", True)


def _without_kernels(tensors: Mapping[str, Tensor]) -> str:
    """What there is instead of convolutions of images."""
    for axes, what in ((3, "one-dimensional"), (5, "three-dimensional")):
        found = [name for name, tensor in tensors.items() if len(tensor.shape) == axes]
        if len(found) >= _MIN_KERNELS:
            return f"it has {what} convolutions, not those of images, as {found[0]}"
    return "it has no convolutions"


def _marked(
    tensors: Mapping[str, Tensor], rest: Mapping[str, Tensor], layers: Sequence[Layer]
) -> str | None:
    """What the names tell."""
    names = list(tensors)
    if word := _first((QUANTISED,), names):
        return f"it has {word}"
    if ints := [n for n, t in tensors.items() if len(t.shape) == 4 and t.dtype.kind in "iu"]:
        return f"it has quantised tensors: {ints[0]} is {tensors[ints[0]].dtype}"
    shapes = {name: tensor.shape for name, tensor in rest.items()}
    pooled = _first(AROUND[:1], names)
    if word := pooled or _of_odd_kernels(shapes, shapes):
        return f"it has {word}"
    if word := _first(OTHERS, names):
        network, _, example = word.partition(", as ")
        return f"it is {network}, by names as {example}"
    if word := _depthwise(layers) or _first(INSIDE, names) or _first(AROUND, names):
        return f"it has {word}"
    return None


def _depthwise(layers: Sequence[Layer]) -> str | None:
    """Networks of depthwise convolutions, one group a channel."""
    layout, _ = layout_of(layers)
    turned = {
        la: oriented(la.shapes[WEIGHT], layout.kernel_axes) for la in layers if la.kind == "conv"
    }
    deep = [la for la, (out, i, height, _) in turned.items() if i == 1 < out and height > 1]
    if len(deep) < _MIN_DEPTHWISE:
        return None
    wide = any(turned[la][2] == 7 for la in deep)
    word = "ConvNeXt has" if wide else "MobileNet and EfficientNet have"
    return f"depthwise convolutions, which {word}, as {deep[0].names[WEIGHT]}"


def _all_biased(layers: Sequence[Layer]) -> bool:
    return all(BIAS in layer.shapes for layer in layers if layer.kind == "conv")


def _by_shapes(layers: Sequence[Layer]) -> str | None:
    convs = [layer for layer in layers if layer.kind == "conv"]
    layout, _ = layout_of(layers)
    turned = {layer: oriented(layer.shapes[WEIGHT], layout.kernel_axes) for layer in convs}
    oblong = [la for la, (_, _, height, width) in turned.items() if height != width]
    if oblong:
        return f"it has kernels that are not square, as Inception: {oblong[0].names[WEIGHT]}"
    if sum(height == 1 for _, _, height, _ in turned.values()) <= 1:
        return (
            "it has nothing but 3 x 3 convolutions in a row: VGG, or blocks whose shortcuts have "
            "no weights, which its names do not tell apart"
        )
    return None
