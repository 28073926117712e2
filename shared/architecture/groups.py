"""The groups of a spec's fields: stem, block, shortcut, norm, head and initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Padding = Literal["symmetric", "same"]
Order = Literal["post", "norm_after_add", "act_before_add", "act_only_pre", "full_pre"]


@dataclass(frozen=True, kw_only=True)
class StemSpec:
    """The layers in front of the first stage.

    `convs` are (kernel, stride, width) triples, with norm and ReLU between them always.
    `padding="same"` is TensorFlow's: at stride 2 and an even size it pads (k//2 - 1, k//2).

    `pool_padding` is what the max pool sees outside the image: `symmetric` one pixel of -inf on
    each side, `zero` one pixel of 0, which competes with negative values (keras.applications, BiT),
    `same` -inf on TensorFlow's SAME grid, `ceil` nothing in front and a last window that ends at
    the border (Caffe, where sizes are rounded up; PyTorch's ceil_mode), `valid` nothing at all (the
    first ResNet-50 of Keras). `ceil` is `same` at even sizes, and has one window less at odd ones.

    `input_norm` is a batch norm of the images themselves, MXNet's `bn_data`: `affine` with gamma
    and beta, `shift` with beta alone.
    """

    input_norm: Literal["none", "affine", "shift"] = "none"
    convs: tuple[tuple[int, int, int], ...] = ((7, 2, 64),)
    norm_act: bool = True  # norm and ReLU after the last convolution; V2 stems end bare
    bias: bool = False
    padding: Padding = "symmetric"
    pool: Literal["none", "max"] = "max"  # max: 3 x 3, stride 2
    pool_padding: Literal["symmetric", "zero", "same", "ceil", "valid"] = "symmetric"


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """The residual block.

    `order` is the order of norm, activation and convolution (V2 paper, figure 4): `post` (a)
    original, `norm_after_add` (b), `act_before_add` (c), `act_only_pre` (d), `full_pre` (e).
    """

    kind: Literal["basic", "bottleneck"] = "bottleneck"
    order: Order = "post"
    # Which convolution carries the stride. Bottleneck: 1 = the first 1 x 1 (V1 as published),
    # 2 = the 3 x 3 ("V1.5", torchvision). Basic blocks stride in their first.
    stride_conv: Literal[1, 2] = 2
    stride_block: Literal["first", "last"] = "first"  # last: keras.applications V2
    groups: int = 1
    base_width: int = 64  # mid width of a bottleneck: int(width * base_width / 64) * groups
    bias: bool = False  # on the convolutions that a norm follows inside the block
    last_bias: bool = False  # on the block's last convolution
    padding: Padding = "symmetric"
    # False: the very first block skips its own pre-activation, because the stem has done it
    # (V2 paper, appendix; fb.resnet.torch).
    first_preact: bool = True
    # Rate, while training, between the two convolutions of a basic block, behind the activation
    # (Zagoruyko & Komodakis 2016, arXiv:1605.07146, section 2.4).
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ShortcutSpec:
    """The path around the residual branch, and how the two are merged."""

    # Where a 1 x 1 projection stands: never (option A), where the channels change (B),
    # where the shape changes, in the first block of every stage, in every block (C).
    projection: Literal["never", "channels", "shape", "entry", "always"] = "shape"
    norm: bool = True  # norm after the projection
    bias: bool = False
    pool: Literal["none", "avg"] = "none"  # avg: ResNet-D, 2 x 2 average, then an unstrided 1 x 1
    # In pre-activation blocks: which shortcuts see the activated tensor instead of the raw one.
    preact: Literal["never", "projection", "stage_entry", "always"] = "projection"
    zero_pad: Literal["split", "tail"] = "split"  # side of option A's zero channels
    # How the shortcut x and the branch F(x) are merged (V2 paper, table 1). With the gate
    # g(x) = sigmoid(W x + b): exclusive_gate (1-g) x + g F, shortcut_gate (1-g) x + F.
    join: Literal["add", "scale", "exclusive_gate", "shortcut_gate", "dropout"] = "add"
    scales: tuple[float, float] = (1.0, 1.0)  # of shortcut and branch, for join="scale"
    dropout: float = 0.5  # rate on the shortcut while training, for join="dropout"


@dataclass(frozen=True, kw_only=True)
class NormSpec:
    """Batch or group normalisation. `momentum` is the weight of the old running value.

    `eps` may be 0 (torchvision's FrozenBatchNorm2d before 0.9); no running variance may be 0 then.
    """

    kind: Literal["batch", "group"] = "batch"
    eps: float = 1e-5
    momentum: float = 0.9
    # Of which variance of a batch the running one is an average. The batch itself is normalised by
    # the biased one everywhere; PyTorch, Caffe and TensorFlow's fused kernels store n / (n - 1)
    # times it, Keras 3 and Flax store it as it is.
    running_var: Literal["unbiased", "biased"] = "unbiased"
    groups: int = 32  # of group normalisation
    # For inference: each norm that alone reads a convolution has become that one's bias and part of
    # its kernel (`shared.weights.folding`).
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What follows the last stage."""

    # V2 networks normalise and activate once more after the last addition; an activation-only
    # block (order act_only_pre) needs just the activation.
    final: Literal["none", "act", "norm_act"] = "none"
    pool: Literal["none", "avg", "max"] = "avg"


@dataclass(frozen=True, kw_only=True)
class InitSpec:
    """How fresh weights are drawn; the function of given weights does not depend on it."""

    conv: Literal[
        "kaiming_normal_fan_out",
        "kaiming_normal_fan_in",
        "he_normal_truncated",
        "he_uniform",
        "glorot_uniform",
        "lecun_normal",
        "torch_default",
    ] = "kaiming_normal_fan_out"
    head: Literal[
        "torch_default",
        "glorot_uniform",
        "lecun_normal",
        "normal_0.01",
        "kaiming_normal_fan_in",
        "he_normal_truncated",
        "zeros",
    ] = "torch_default"
    zero_residual: bool = False  # gamma of each block's last norm starts at 0
    gate_bias: float = 0.0  # b_g of the gated shortcuts
