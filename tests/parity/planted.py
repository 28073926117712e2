"""Mistakes that real ports have made, each as something done to one side only.

What is wrong is a hypothesis of `shared.verification.hypotheses`, the list that `rosetta diagnose`
searches, by its name there. `where` is the layer at which the two sides must be seen to part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shared import ResNetSpec, get_spec, miniature, probe_images
from shared.verification.hypotheses.hypothesis import Hypothesis, Port
from shared.verification.hypotheses.listing import named

Weights = dict[str, np.ndarray]
ONE_BIT = "one bit"  # a name that is not in the list: no search tries every weight


@dataclass(frozen=True)
class Mistake:
    """A hypothesis of the side that gets it wrong; `given` changes the preset on both sides."""

    name: str
    preset: str
    where: str  # trace key without its check
    planted: str  # the hypothesis's name, or a layer and `ONE_BIT`
    given: Mapping[str, Any] = field(default_factory=dict)
    side: int = 64  # of the images

    @property
    def spec(self) -> ResNetSpec:
        return miniature(get_spec(self.preset)).replace(**self.given)

    @property
    def size(self) -> int:
        """Even, and large enough that the last feature map is more than one pixel."""
        return min(self.side, get_spec(self.preset).image_size)

    @property
    def hypothesis(self) -> Hypothesis:
        if self.planted.endswith(ONE_BIT):
            tensor = self.planted.removesuffix(f": {ONE_BIT}") + ".weight"
            return Hypothesis(
                "weights", self.planted, ONE_BIT, lambda port: one_bit_off(port, tensor)
            )
        return named(self.planted, self.spec)

    def wrong(self, weights: Weights, images: np.ndarray | None = None) -> Port:
        """The side that gets it wrong."""
        if images is None:
            images = probe_images((1, self.size, self.size, self.spec.in_channels), dtype="float64")
        port = self.hypothesis(Port(self.spec, weights, images))
        assert port is not None, f"{self.planted} is not possible"
        return port


def one_bit_off(port: Port, tensor: str) -> Port:
    """One weight changed in the last bit that float32 has."""
    changed = port.weights[tensor].copy()
    changed.flat[7] *= 1 + 2.0**-23
    return replace(port, weights={**port.weights, tensor: changed})


TV18, TV50 = "torchvision/resnet18", "torchvision/resnet50"
B0, B1 = "stages.0.blocks.0", "stages.0.blocks.1"

MISTAKES = (
    # padding and pooling
    Mistake("stem padded SAME", TV50, "stem.conv1", "stem.padding=same"),
    Mistake("blocks padded SAME", TV50, "stages.1.blocks.0.conv2", "block.padding=same"),
    Mistake(
        "SAME net padded symmetrically",
        "flax/resnet18",
        "stages.1.blocks.0.conv1",
        "block.padding=symmetric",
    ),
    Mistake("pool on the SAME grid", TV18, "stem.pool", "stem.pool_padding=same"),
    Mistake(
        "pool padded with -inf for 0",
        "keras/resnet50v2",
        "stem.pool",
        "stem.pool_padding=symmetric",
    ),
    Mistake(
        "pool padded with 0 for -inf", "timm/resnetv2_50", "stem.pool", "stem.pool_padding=zero"
    ),
    # At 66 pixels the pool sees 33: Caffe has 16 windows there, SAME has 17.
    Mistake(
        "Caffe's pool on the SAME grid",
        "he/resnet50",
        "stem.pool",
        "stem.pool_padding=same",
        side=66,
    ),
    Mistake(
        "Caffe's pool padded symmetrically",
        "he/resnet18_b",
        "stem.pool",
        "stem.pool_padding=symmetric",
    ),
    Mistake("anti-aliasing left out", "timm/resnetaa50", "stem.pool", "anti_alias=none"),
    Mistake("average for blur", "timm/resnetblur18", "stem.pool", "anti_alias=average"),
    Mistake(
        "strided convolution for blur",
        "timm/resnetblur50",
        "stages.1.blocks.0.conv2",
        "anti_alias=none",
        given={"stem.pool": "none"},
    ),
    Mistake(
        "blur for average in the blocks",
        "timm/resnetaa34d",
        "stages.1.blocks.0.anti_alias",
        "anti_alias=blur",
        given={"stem.pool": "none"},
    ),
    Mistake("pool left out", TV18, "stem.pool", "stem.pool=none"),
    Mistake("max for average pooling", TV18, "pool", "head.pool=max"),
    Mistake(
        "ResNet-D pool left out",
        "timm/resnet18d",
        "stages.1.blocks.0.shortcut.pool",
        "shortcut.pool=none",
    ),
    # where the stride and the dilation sit
    Mistake("stride on the first 1x1", TV50, "stages.1.blocks.0.conv1", "block.stride_conv=1"),
    Mistake(
        "stride on the 3x3", "keras/resnet50", "stages.1.blocks.0.conv1", "block.stride_conv=2"
    ),
    Mistake(
        "stride in the first block",
        "keras/resnet50v2",
        "stages.0.blocks.0.shortcut.conv",
        "block.stride_block=first",
    ),
    Mistake(
        "stage strides shifted", "keras/resnet50v2", "stages.0.blocks.1.shortcut", "strides=1,2,2,2"
    ),
    Mistake(
        "dilation forgotten",
        TV18,
        "stages.3.blocks.0.conv2",
        "strides=1,2,2,1 dilate=false,false,false,false",
        given={"dilate": (False, False, False, True)},
    ),
    Mistake(
        "dilation where there is none",
        TV50,
        "stages.3.blocks.1.conv2",
        "strides=1,2,1,2 dilate=false,false,false,true",
        given={"strides": (1, 2, 1, 1), "dilate": (False,) * 4},
    ),
    # norms
    Mistake("eps of keras.applications", TV18, "stem.norm1", "norm.eps=1.001e-05"),
    Mistake("eps of Keras", TV18, "stem.norm1", "norm.eps=0.001"),
    Mistake("eps for none", TV18, "stem.norm1", "norm.eps=1e-05", given={"norm.eps": 0.0}),
    Mistake("group norm with fewer groups", "timm/resnet50_gn", "stem.norm1", "norm.groups=2"),
    Mistake("final norm left out", "timm/resnetv2_50", "final_norm", "head.final=none"),
    Mistake(
        "projection norm left out", TV18, "stages.1.blocks.0.shortcut.norm", "shortcut.norm=false"
    ),
    Mistake("stem norm left out", TV18, "stem.norm1", "stem.norm_act=false"),
    Mistake("gamma with beta", TV18, "stem.norm1", "stem.norm1: gamma and beta exchanged"),
    Mistake("mean with variance", TV18, f"{B0}.norm1", f"{B0}.norm1: mean and variance exchanged"),
    Mistake(
        "norms of one block exchanged", TV18, f"{B0}.norm1", f"{B0}.norm1 and {B0}.norm2 exchanged"
    ),
    # shortcuts
    Mistake(
        "zero channels at the tail",
        "cifar/resnet20",
        "stages.1.blocks.0.shortcut",
        "shortcut.zero_pad=tail",
    ),
    Mistake(
        "zero channels on both sides",
        "he/resnet18_a",
        "stages.1.blocks.0.shortcut",
        "shortcut.zero_pad=split",
    ),
    Mistake(
        "projection for zero channels",
        "cifar/resnet20",
        "stages.1.blocks.0.shortcut",
        "shortcut.projection=channels",
    ),
    Mistake(
        "projection from the raw tensor",
        "timm/resnetv2_50",
        f"{B0}.shortcut.conv",
        "shortcut.preact=never",
    ),
    Mistake(
        "identity from the activated tensor", "cifar/preresnet20", B0, "shortcut.preact=projection"
    ),
    Mistake(
        "missing projection of TF's stage 0",
        "tf/resnet18_v1",
        f"{B0}.shortcut.conv",
        "shortcut.projection=shape",
    ),
    # the unit
    Mistake("V1 unit without its last ReLU", TV18, B0, "block.order=act_before_add"),
    Mistake(
        "norm after the addition",
        "ablation/resnet110_original",
        f"{B0}.norm2",
        "block.order=norm_after_add",
    ),
    Mistake(
        "pre-activation without norm",
        "ablation/resnet110_full_pre",
        f"{B0}.norm1",
        "block.order=act_only_pre head.final=act",
    ),
    Mistake(
        "gate on the branch forgotten",
        "ablation/resnet110_exclusive_gate_b6",
        B0,
        "shortcut.join=shortcut_gate",
    ),
    Mistake(
        "shortcut scale forgotten",
        "ablation/resnet110_scale_0.5_0.5",
        B0,
        "shortcut.scales=1.0,0.5",
    ),
    # convolutions
    Mistake("kernel transposed", TV18, "stem.conv1", "stem.conv1: its height and width transposed"),
    Mistake("kernel flipped", TV18, f"{B0}.conv1", f"{B0}.conv1: flipped in height and width"),
    Mistake(
        "input and output channels exchanged",
        TV18,
        f"{B0}.conv1",
        f"{B0}.conv1: its input and output channels exchanged",
    ),
    Mistake(
        "group count order",
        "torchvision/resnext50_32x4d",
        f"{B0}.conv2",
        f"{B0}.conv2: its groups interleaved",
    ),
    Mistake(
        "stem bias dropped", "he/resnet50", "stem.conv1", "stem.conv1: bias not loaded (zeros)"
    ),
    Mistake("block bias dropped", "keras/resnet50", f"{B0}.conv1", "block.bias=false"),
    Mistake("last bias dropped", "keras/resnet50v2", f"{B0}.conv3", "block.last_bias=false"),
    Mistake(
        "projection bias dropped",
        "d2l/resnet18",
        "stages.1.blocks.0.shortcut.conv",
        "shortcut.bias=false",
    ),
    Mistake("weight standardisation forgotten", "bit/r50x1", "stem.conv1", "weight_std_eps=null"),
    Mistake(
        "weight standardisation with timm's eps", "bit/r50x1", "stem.conv1", "weight_std_eps=1e-08"
    ),
    Mistake("two blocks exchanged", TV18, f"{B0}.conv1", f"{B0} and {B1} exchanged"),
    Mistake(
        "two convolutions exchanged",
        TV18,
        f"{B0}.conv1",
        f"{B0}.conv1.weight and {B0}.conv2.weight exchanged",
    ),
    Mistake(
        "RGB read as BGR", TV18, "stem.conv1", "stem.conv1: its input channels in reverse order"
    ),
    Mistake("one weight one bit off in float32", TV18, f"{B1}.conv2", f"{B1}.conv2: {ONE_BIT}"),
    # the head
    Mistake("head bias dropped", TV18, "head", "head: bias not loaded (zeros)"),
    Mistake("head transposed", TV18, "head", "head: [in, out] read as [out, in]"),
)
