"""Public ResNets that are meant to be one function, each side described as a spec.

The descriptions were read in the projects' sources at the commit that is named; none of their code
is here, and none of it is run. `seen` says what was measured with their own code, where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAME = "same"


@dataclass(frozen=True)
class Pair:
    """Two sides of one project, or of two that promise to be alike. `there` are the changes that
    make the second side of the first, as `ResNetSpec.replace` takes them.
    """

    who: str
    version: str
    here: str  # what the first side is
    beside: str  # what the second side is
    preset: str
    there: Mapping[str, Any]
    given: Mapping[str, Any] = field(default_factory=dict)  # of both sides
    seen: str = ""


PAIRS = (
    Pair(
        "MLCommons AlgoPerf, imagenet_resnet",
        "2c90454",
        "PyTorch",
        "JAX",
        "torchvision/resnet50",
        {"block.padding": SAME, "norm.running_var": "biased"},
        seen="their files, float64: 1.3e-15 as initialised (what their check runs), 4.1e-2 with "
        "last gammas of 0.5",
    ),
    Pair(
        "google-research/simclr and Separius/SimCLRv2-Pytorch",
        "383d414, f4c2f41",
        "TensorFlow",
        "PyTorch",
        "torchvision/resnet50",
        {"stem.pool_padding": "symmetric"},
        {"stem.pool_padding": SAME},
    ),
    Pair(
        "d2l-en, chapter ResNet",
        "23d7a5a",
        "PyTorch",
        "TensorFlow",
        "d2l/resnet18",
        {
            "stem.padding": SAME,
            "stem.pool_padding": SAME,
            "block.padding": SAME,
            "norm.eps": 1e-3,
            "norm.momentum": 0.99,
            "norm.running_var": "biased",
        },
    ),
    Pair(
        "d2l-en, chapter ResNet",
        "23d7a5a",
        "PyTorch",
        "JAX",
        "d2l/resnet18",
        {
            "stem.padding": SAME,
            "stem.pool_padding": SAME,
            "block.padding": SAME,
            "norm.momentum": 0.99,
            "norm.running_var": "biased",
        },
    ),
    Pair(
        "d2l-en, chapter ResNet",
        "23d7a5a",
        "PyTorch",
        "MXNet",
        "d2l/resnet18",
        {},
        seen="which variance MXNet stores was not read",
    ),
    Pair(
        "MLPerf training, the retired references",
        "aa344c7",
        "TensorFlow 1",
        "TensorFlow 2",
        "torchvision/resnet50",
        {"block.padding": SAME},
    ),
    Pair(
        "NVIDIA DeepLearningExamples, ResNet-50 v1.5",
        "729963d",
        "PyTorch",
        "TensorFlow",
        "torchvision/resnet50",
        {"stem.padding": SAME, "stem.pool_padding": SAME, "block.padding": SAME},
    ),
    Pair(
        "benchopt/benchmark_resnet_classif",
        "77c6ac6",
        "PyTorch",
        "TensorFlow",
        "torchvision/resnet50",
        {"block.stride_conv": 1, "norm.eps": 1.001e-5},
    ),
    Pair(
        "mindspore-lab/mindcv, after torchvision",
        "0c14864",
        "torchvision",
        "MindSpore",
        "torchvision/resnet50",
        {"stem.pool_padding": SAME},
    ),
    Pair(
        "keras-applications: resnet.ResNet50 and resnet50.ResNet50",
        "1.0.8",
        "resnet",
        "resnet50",
        "keras/resnet50",
        {"norm.eps": 1e-3},
    ),
    Pair(
        "pytorchcv and kerascv, preresnet18",
        "0.0.40",
        "pytorchcv",
        "kerascv",
        "fb/preresnet18",
        {"stem.pool_padding": SAME},
        seen="their packages, same weights: 4.9e-2; the control resnet18: 5e-7",
    ),
    Pair(
        "deepvision-toolkit, ResNet50V2",
        "0.1.6",
        "PyTorch",
        "TensorFlow",
        "deepvision/resnet50v2_torch",
        {
            "stem.padding": SAME,
            "stem.pool_padding": SAME,
            "block.padding": SAME,
            "norm.eps": 1.001e-5,
            "norm.momentum": 0.99,
        },
        seen="their package, same weights: probabilities 1.7e-3 apart; on both sides the identity "
        "shortcuts see the activated tensor, which is not V2",
    ),
    Pair(
        "matthias-wright/flaxmodels, after torchvision",
        "09bc772",
        "torchvision",
        "Flax",
        "torchvision/resnet18",
        {"norm.momentum": 0.1, "norm.running_var": "biased"},
        seen="their package: running statistics move 9.0 times as far in one step",
    ),
    Pair(
        "jax-ml/bonsai, after Hugging Face",
        "3628425",
        "PyTorch",
        "Flax NNX",
        "torchvision/resnet18",
        {"norm.momentum": 0.99, "norm.running_var": "biased"},
    ),
)
