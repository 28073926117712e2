"""Mistakes that real ports have made, each as something done to one side only.

A mistake changes the spec that a framework builds, or the weights that it is given, or both; the
other side stays right. `where` is the layer at which the two must be seen to part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shared import ResNetSpec, get_spec, make_plan, miniature

Weights = dict[str, np.ndarray]


def unchanged(weights: Weights) -> Weights:
    return weights


@dataclass(frozen=True)
class Mistake:
    """`changes` to the spec and `damage` to the weights of the side that gets it wrong."""

    name: str
    preset: str
    where: str  # trace key without its check
    changes: Mapping[str, Any] = field(default_factory=dict)
    damage: Callable[[Weights], Weights] = unchanged
    given: Mapping[str, Any] = field(default_factory=dict)  # changes to the preset on both sides
    side: int = 64  # of the images

    @property
    def spec(self) -> ResNetSpec:
        return miniature(get_spec(self.preset)).replace(**self.given)

    @property
    def size(self) -> int:
        """Even, and large enough that the last feature map is more than one pixel."""
        return min(self.side, get_spec(self.preset).image_size)

    @property
    def wrong_spec(self) -> ResNetSpec:
        return self.spec.replace(**self.changes)

    def wrong_weights(self, weights: Weights) -> Weights:
        """The damaged weights, without the tensors that the wrong network has no place for."""
        wanted = make_plan(self.wrong_spec).tensors
        damaged = self.damage(dict(weights))
        return {name: damaged[name] for name in wanted}


def swap(a: str, b: str) -> Callable[[Weights], Weights]:
    """Exchange two tensors."""

    def damage(weights: Weights) -> Weights:
        return {**weights, a: weights[b], b: weights[a]}

    return damage


def swap_layers(a: str, b: str) -> Callable[[Weights], Weights]:
    """Exchange everything below two names."""

    def damage(weights: Weights) -> Weights:
        def other(name: str) -> str:
            for here, there in ((a, b), (b, a)):
                if name.startswith(f"{here}."):
                    return there + name.removeprefix(here)
            return name

        return {name: weights[other(name)] for name in weights}

    return damage


def edit(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Weights], Weights]:
    """Change one tensor."""

    def damage(weights: Weights) -> Weights:
        return {**weights, name: np.ascontiguousarray(change(weights[name]))}

    return damage


def interleave_groups(kernel: np.ndarray) -> np.ndarray:
    """Output channels ordered channel-major instead of group-major."""
    groups = 4
    return kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(0, 1).reshape(kernel.shape)


def one_bit_off(kernel: np.ndarray) -> np.ndarray:
    """One weight changed in the last bit that float32 has."""
    changed = kernel.copy()
    changed.flat[7] *= 1 + 2.0**-23
    return changed


def drop_tensor(name: str) -> Callable[[Weights], Weights]:
    """What is loaded as zeros because nobody noticed that it was there."""
    return edit(name, np.zeros_like)


TV18, TV50 = "torchvision/resnet18", "torchvision/resnet50"
B0, B1 = "stages.0.blocks.0", "stages.0.blocks.1"

MISTAKES = (
    # padding and pooling
    Mistake("stem padded SAME", TV50, "stem.conv1", {"stem.padding": "same"}),
    Mistake("blocks padded SAME", TV50, "stages.1.blocks.0.conv2", {"block.padding": "same"}),
    Mistake(
        "SAME net padded symmetrically",
        "flax/resnet18",
        "stages.1.blocks.0.conv1",
        {"block.padding": "symmetric"},
    ),
    Mistake("pool on the SAME grid", TV18, "stem.pool", {"stem.pool_padding": "same"}),
    Mistake(
        "pool padded with -inf for 0",
        "keras/resnet50v2",
        "stem.pool",
        {"stem.pool_padding": "symmetric"},
    ),
    Mistake(
        "pool padded with 0 for -inf",
        "timm/resnetv2_50",
        "stem.pool",
        {"stem.pool_padding": "zero"},
    ),
    # At 66 pixels the pool sees 33: Caffe has 16 windows there, SAME has 17.
    Mistake(
        "Caffe's pool on the SAME grid",
        "he/resnet50",
        "stem.pool",
        {"stem.pool_padding": "same"},
        side=66,
    ),
    Mistake(
        "Caffe's pool padded symmetrically",
        "he/resnet18_b",
        "stem.pool",
        {"stem.pool_padding": "symmetric"},
    ),
    Mistake("anti-aliasing left out", "timm/resnetaa50", "stem.pool", {"anti_alias": "none"}),
    Mistake("average for blur", "timm/resnetblur18", "stem.pool", {"anti_alias": "average"}),
    Mistake(
        "strided convolution for blur",
        "timm/resnetblur50",
        "stages.1.blocks.0.conv2",
        {"anti_alias": "none"},
        given={"stem.pool": "none"},
    ),
    Mistake(
        "blur for average in the blocks",
        "timm/resnetaa34d",
        "stages.1.blocks.0.anti_alias",
        {"anti_alias": "blur"},
        given={"stem.pool": "none"},
    ),
    Mistake("pool left out", TV18, "stem.pool", {"stem.pool": "none"}),
    Mistake("max for average pooling", TV18, "pool", {"head.pool": "max"}),
    Mistake(
        "ResNet-D pool left out",
        "timm/resnet18d",
        "stages.1.blocks.0.shortcut.pool",
        {"shortcut.pool": "none"},
    ),
    # where the stride and the dilation sit
    Mistake("stride on the first 1x1", TV50, "stages.1.blocks.0.conv1", {"block.stride_conv": 1}),
    Mistake(
        "stride on the 3x3", "keras/resnet50", "stages.1.blocks.0.conv1", {"block.stride_conv": 2}
    ),
    Mistake(
        "stride in the first block",
        "keras/resnet50v2",
        "stages.0.blocks.0.shortcut.conv",
        {"block.stride_block": "first"},
    ),
    Mistake(
        "stage strides shifted",
        "keras/resnet50v2",
        "stages.0.blocks.1.shortcut",
        {"strides": (1, 2, 2, 2)},
    ),
    Mistake(
        "dilation forgotten",
        TV18,
        "stages.3.blocks.0.conv2",
        {"strides": (1, 2, 2, 1), "dilate": (False,) * 4},
        given={"dilate": (False, False, False, True)},
    ),
    Mistake(
        "dilation where there is none",
        TV50,
        "stages.3.blocks.1.conv2",
        {"strides": (1, 2, 1, 2), "dilate": (False, False, False, True)},
        given={"strides": (1, 2, 1, 1), "dilate": (False,) * 4},
    ),
    # norms
    Mistake("eps of keras.applications", TV18, "stem.norm1", {"norm.eps": 1.001e-5}),
    Mistake("eps of Keras", TV18, "stem.norm1", {"norm.eps": 1e-3}),
    Mistake("eps for none", TV18, "stem.norm1", {"norm.eps": 1e-5}, given={"norm.eps": 0.0}),
    Mistake("group norm with fewer groups", "timm/resnet50_gn", "stem.norm1", {"norm.groups": 2}),
    Mistake("final norm left out", "timm/resnetv2_50", "final_norm", {"head.final": "none"}),
    Mistake(
        "projection norm left out",
        TV18,
        "stages.1.blocks.0.shortcut.norm",
        {"shortcut.norm": False},
    ),
    Mistake("stem norm left out", TV18, "stem.norm1", {"stem.norm_act": False}),
    Mistake(
        "gamma with beta", TV18, "stem.norm1", damage=swap("stem.norm1.weight", "stem.norm1.bias")
    ),
    Mistake(
        "mean with variance",
        TV18,
        f"{B0}.norm1",
        damage=lambda w: swap(f"{B0}.norm1.running_mean", f"{B0}.norm1.running_var")(
            {**w, f"{B0}.norm1.running_mean": np.abs(w[f"{B0}.norm1.running_mean"])}
        ),
    ),
    Mistake(
        "norms of one block exchanged",
        TV18,
        f"{B0}.norm1",
        damage=swap_layers(f"{B0}.norm1", f"{B0}.norm2"),
    ),
    # shortcuts
    Mistake(
        "zero channels at the tail",
        "cifar/resnet20",
        "stages.1.blocks.0.shortcut",
        {"shortcut.zero_pad": "tail"},
    ),
    Mistake(
        "zero channels on both sides",
        "he/resnet18_a",
        "stages.1.blocks.0.shortcut",
        {"shortcut.zero_pad": "split"},
    ),
    Mistake(
        "projection for zero channels",
        "cifar/resnet20",
        "stages.1.blocks.0.shortcut",
        {"shortcut.projection": "channels"},
        lambda w: (
            w
            | {
                f"stages.{s}.blocks.0.shortcut.{t}": v
                for s, a, b in ((1, 8, 16), (2, 16, 32))
                for t, v in {
                    "conv.weight": np.eye(b, a)[:, :, None, None],
                    "norm.weight": np.ones(b),
                    "norm.bias": np.zeros(b),
                    "norm.running_mean": np.zeros(b),
                    "norm.running_var": np.ones(b),
                }.items()
            }
        ),
    ),
    Mistake(
        "projection from the raw tensor",
        "timm/resnetv2_50",
        f"{B0}.shortcut.conv",
        {"shortcut.preact": "never"},
    ),
    Mistake(
        "identity from the activated tensor",
        "cifar/preresnet20",
        B0,
        {"shortcut.preact": "projection"},
    ),
    Mistake(
        "missing projection of TF's stage 0",
        "tf/resnet18_v1",
        f"{B0}.shortcut.conv",
        {"shortcut.projection": "shape"},
    ),
    # the unit
    Mistake("V1 unit without its last ReLU", TV18, B0, {"block.order": "act_before_add"}),
    Mistake(
        "norm after the addition",
        "ablation/resnet110_original",
        f"{B0}.norm2",
        {"block.order": "norm_after_add"},
    ),
    Mistake(
        "pre-activation without norm",
        "ablation/resnet110_full_pre",
        f"{B0}.norm1",
        {"block.order": "act_only_pre", "head.final": "act"},
        lambda w: (
            w
            | {
                f"{B0}.norm1.{leaf}": w["stem.norm1." + leaf]
                for leaf in ("weight", "bias", "running_mean", "running_var")
            }
            | {
                f"stages.{s}.blocks.{b}.norm2.{leaf}": w[f"stages.{s}.blocks.{b}.norm2.{leaf}"]
                for s in range(3)
                for b in range(2)
                for leaf in ("weight", "bias", "running_mean", "running_var")
            }
            | {
                f"stages.{s}.blocks.0.norm1.{leaf}": w[f"stages.{s}.blocks.0.norm2.{leaf}"]
                for s in range(3)
                for leaf in ("weight", "bias", "running_mean", "running_var")
            }
        ),
    ),
    Mistake(
        "gate on the branch forgotten",
        "ablation/resnet110_exclusive_gate_b6",
        B0,
        {"shortcut.join": "shortcut_gate"},
    ),
    Mistake(
        "shortcut scale forgotten",
        "ablation/resnet110_scale_0.5_0.5",
        B0,
        {"shortcut.scales": (1.0, 0.5)},
    ),
    # convolutions
    Mistake(
        "kernel transposed",
        TV18,
        "stem.conv1",
        damage=edit("stem.conv1.weight", lambda k: k.swapaxes(2, 3)),
    ),
    Mistake(
        "kernel flipped",
        TV18,
        f"{B0}.conv1",
        damage=edit(f"{B0}.conv1.weight", lambda k: k[:, :, ::-1, ::-1]),
    ),
    Mistake(
        "input and output channels exchanged",
        TV18,
        f"{B0}.conv1",
        damage=edit(f"{B0}.conv1.weight", lambda k: k.swapaxes(0, 1)),
    ),
    Mistake(
        "group count order",
        "torchvision/resnext50_32x4d",
        f"{B0}.conv2",
        damage=edit(f"{B0}.conv2.weight", interleave_groups),
    ),
    Mistake(
        "stem bias dropped", "he/resnet50", "stem.conv1", damage=drop_tensor("stem.conv1.bias")
    ),
    Mistake("block bias dropped", "keras/resnet50", f"{B0}.conv1", {"block.bias": False}),
    Mistake("last bias dropped", "keras/resnet50v2", f"{B0}.conv3", {"block.last_bias": False}),
    Mistake(
        "projection bias dropped",
        "d2l/resnet18",
        "stages.1.blocks.0.shortcut.conv",
        {"shortcut.bias": False},
    ),
    Mistake(
        "weight standardisation forgotten", "bit/r50x1", "stem.conv1", {"weight_std_eps": None}
    ),
    Mistake(
        "weight standardisation with timm's eps",
        "bit/r50x1",
        "stem.conv1",
        {"weight_std_eps": 1e-8},
    ),
    Mistake("two blocks exchanged", TV18, f"{B0}.conv1", damage=swap_layers(B0, B1)),
    Mistake(
        "two convolutions exchanged",
        TV18,
        f"{B0}.conv1",
        damage=swap(f"{B0}.conv1.weight", f"{B0}.conv2.weight"),
    ),
    Mistake(
        "RGB read as BGR",
        TV18,
        "stem.conv1",
        damage=edit("stem.conv1.weight", lambda k: k[:, ::-1]),
    ),
    Mistake(
        "one weight one bit off in float32",
        TV18,
        f"{B1}.conv2",
        damage=edit(f"{B1}.conv2.weight", one_bit_off),
    ),
    # the head
    Mistake("head bias dropped", TV18, "head", damage=drop_tensor("head.bias")),
    Mistake(
        "head transposed",
        TV18,
        "head",
        damage=edit("head.weight", lambda w: w.reshape(w.shape[::-1]).T),
    ),
)
