"""What is peculiar about a network, in sentences for its file's docstring."""

from __future__ import annotations

from collections.abc import Iterator

from shared.architecture.ops import AvgPool, BatchNorm
from shared.architecture.presets import get_preset, list_presets
from shared.architecture.spec import ResNetSpec
from shared.source.facts import Facts, norm_of
from shared.source.lines import docstring, number


def head_of(facts: Facts, framework: str, layout: str, loading: str, note: str = "") -> list[str]:
    """The docstring of the file."""
    spec = facts.spec
    name = spec.name
    library = "safetensors.torch" if framework == "PyTorch" else "safetensors.numpy"
    source = get_preset(name).source if name in list_presets() else "a network of its own"
    known = [f"* {sentence[0].upper()}{sentence[1:]}." for sentence in peculiarities(facts)]
    height, width = facts.plan.image_size
    return docstring(
        [
            f"{name} in {framework}: {facts.plan.params:,} parameters, "
            f"{facts.plan.macs / 1e9:.2f} G multiply-adds at {height} x {width}.",
            f"Source: {source}. Tensors are {layout}.{note} Fresh weights are {framework}'s own; "
            "canonical ones (`rosetta convert FILE weights.safetensors`) load so, after "
            f"`import {library}`:",
            loading,
            *(["Peculiar:", *known] if known else []),
        ]
    )


def peculiarities(facts: Facts) -> Iterator[str]:
    """One sentence each, from the image to the classifier."""
    spec = facts.spec
    yield from _stem(facts)
    yield from _block(spec)
    yield from _shortcut(spec)
    yield from _join(spec)
    yield from _norm(facts)
    if spec.head.final == "none" and spec.block.order == "full_pre":
        yield "nothing is normalised or activated behind the last addition, unlike in the paper"
    if spec.head.pool == "max":
        yield "the head takes the maximum over the image, not the mean"
    if spec.num_classes == 1001:
        yield "class 0 is the background"


def _stem(facts: Facts) -> Iterator[str]:
    spec = facts.spec
    kernels = [kernel for kernel, _, _ in spec.stem.convs]
    if spec.stem.input_norm != "none":
        beta = ", without gamma" if spec.stem.input_norm == "shift" else ""
        yield f"a batch norm of the images stands in front{beta}"
    if len(kernels) > 1:
        count = {2: "two", 3: "three", 4: "four"}.get(len(kernels), str(len(kernels)))
        sizes = " and ".join(dict.fromkeys(f"{kernel} x {kernel}" for kernel in kernels))
        yield f"{count} convolutions of {sizes} in the place of the 7 x 7"
    if spec.stem.pool == "none":
        yield "no pool in the stem: the images are small"
    if spec.stem.bias:
        after = ", though a norm follows it" if spec.stem.norm_act else ""
        yield f"the stem's convolution has a bias{after}"
    if spec.stem.padding == "same":
        yield "the stem pads SAME: one pixel less in front than behind, on even sizes"
    if spec.stem.pool == "max" and not isinstance(facts.plan.stem.pool, AvgPool):
        padding = {
            "zero": "the stem's pool pads with zeros, which win over negative values",
            "same": "the stem's pool pads SAME: nothing in front, on even sizes",
            "valid": "the stem's pool pads nothing, and leaves out what is over at the end",
            "ceil": "the stem's pool pads nothing in front and rounds the size up, as Caffe does",
        }.get(spec.stem.pool_padding)
        if padding:
            yield padding


def _block(spec: ResNetSpec) -> Iterator[str]:
    block = spec.block
    if block.kind == "bottleneck":
        if block.stride_conv == 2 and block.order == "post" and spec.anti_alias == "none":
            yield 'the 3 x 3 convolution strides, not the first 1 x 1 as in the paper ("V1.5")'
        if block.stride_conv == 1:
            yield "the first 1 x 1 convolution strides, as in the paper"
    if block.stride_block == "last":
        yield "the last block of a stage strides, not the first"
    if block.groups > 1:
        yield f"the 3 x 3 convolution has {block.groups} groups (ResNeXt, arXiv:1611.05431)"
    elif block.base_width != 64:
        yield f"the 3 x 3 convolution is {block.base_width / 64:g} times as wide"
    if block.bias or block.last_bias:
        which = (
            "all"
            if block.bias and block.last_bias
            else "the last"
            if block.last_bias
            else "the inner"
        )
        yield (
            f"{which} convolutions of a block have biases"
            if which != "the last"
            else ("the last convolution of a block has a bias")
        )
    if block.dropout:
        yield (
            f"dropout of {block.dropout:g} between the convolutions of a block (arXiv:1605.07146)"
        )
    if block.padding == "same":
        yield "the convolution that strides pads SAME: one pixel less in front, on even sizes"
    if spec.weight_std_eps is not None:
        yield "every filter is standardised before use (arXiv:1903.10520)"
    if spec.anti_alias != "none":
        what = "an average pool" if spec.anti_alias == "average" else "a blur (arXiv:1904.11486)"
        yield f"{what} halves the image in front of a block's last convolution; nothing strides"
    order = {
        "norm_after_add": "the last norm stands behind the addition (arXiv:1603.05027, figure 4b)",
        "act_before_add": "the branch is activated in front of the addition "
        "(arXiv:1603.05027, figure 4c)",
        "act_only_pre": "the activation stands in front of the convolution, the norm behind it "
        "(arXiv:1603.05027, figure 4d)",
    }.get(block.order)
    if order:
        yield order
    if block.order in ("full_pre", "act_only_pre") and not block.first_preact:
        yield "the stem activates its output, so that the first block does not"


def _shortcut(spec: ResNetSpec) -> Iterator[str]:
    shortcut = spec.shortcut
    kind = {
        "never": "option A: the shortcut has no weights; new channels are zeros, "
        + ("on both sides" if shortcut.zero_pad == "split" else "behind the others"),
        "channels": "a projection only where the channels change",
        "entry": "a projection in the first block of every stage",
        "always": "option C: a projection in every block",
    }.get(shortcut.projection)
    if kind and shortcut.scales[0] != 0:
        yield kind
    if shortcut.projection != "never":
        if shortcut.pool == "avg":
            yield "an average pool halves the shortcut, and the projection does not (ResNet-D)"
        if spec.block.order == "post" and not shortcut.norm:
            yield "no norm behind the projection"
    if spec.block.order in ("full_pre", "act_only_pre") and shortcut.preact == "stage_entry":
        yield "the shortcut of a stage's first block starts behind the activation"
    if spec.block.order in ("full_pre", "act_only_pre") and shortcut.preact == "always":
        yield "every shortcut starts behind the activation, identities too, unlike in the paper"


def _join(spec: ResNetSpec) -> Iterator[str]:
    shortcut = spec.shortcut
    if shortcut.join == "scale" and shortcut.scales == (0, 1):
        yield "no shortcut: a plain network, for comparison"
        return
    said = {
        "scale": "{:g} times the shortcut plus {:g} times the branch".format(*shortcut.scales),
        "exclusive_gate": "a gate g joins the two: (1 - g) shortcut + g branch",
        "shortcut_gate": "a gate g is on the shortcut alone: (1 - g) shortcut + branch",
        "dropout": f"dropout of {shortcut.dropout:g} on the shortcut",
    }.get(shortcut.join)
    if said:
        yield f"{said} (arXiv:1603.05027, table 1)"


def _norm(facts: Facts) -> Iterator[str]:
    norm = norm_of(facts.plan)
    if not isinstance(norm, BatchNorm):
        yield f"group norm of {norm.groups} groups, eps {number(norm.eps)}"
        return
    if norm.eps != 1e-5:
        yield f"eps is {number(norm.eps)}"
    if norm.momentum != 0.9:
        yield f"running statistics keep {norm.momentum:g} of the old value"
