"""The idioms: what three listings each compute, what is right by plain NumPy, and who was bitten.

The listings are `docs/idioms/NAME/in_{torch,keras,flax}.py`; each has `right`, which is the same
function in all three, and `wrong`, which is what goes wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FRAMEWORKS = {"torch": "PyTorch", "keras": "Keras 3", "flax": "Flax NNX"}
EXACT = 1e-14  # of float64 on both sides
FLOAT32 = 1e-6  # Keras keeps a learning rate in float32, beside float64 weights too
DRAWN = 0.02  # of the deviation of 589,824 numbers that each side draws by itself
VISIBLE = 1e-3  # what a mistake is at least

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Idiom:
    """One thing that three frameworks say differently."""

    name: str
    title: str
    trap: str
    bitten: tuple[tuple[str, str], ...]  # an issue or a project, and what happened
    inputs: Callable[[np.random.Generator], Inputs]
    expected: Callable[..., Any]
    limits: Mapping[str, float]  # by framework
    visible: float = VISIBLE


def _limits(**others: float) -> dict[str, float]:
    return dict.fromkeys(FRAMEWORKS, EXACT) | others


def _images(random: np.random.Generator) -> Inputs:
    return {"images": random.normal(1.0, 2.0, (2, 8, 8, 3))}


def _few(random: np.random.Generator) -> Inputs:
    """As in a last stage: few values a channel."""
    return {"images": random.normal(1.0, 2.0, (2, 2, 2, 3))}


def _mostly_right(random: np.random.Generator) -> Inputs:
    """As late in training: smoothing is most of the loss there."""
    labels = random.integers(0, 10, 6)
    return {"logits": random.normal(size=(6, 10)) + 4 * np.eye(10)[labels], "labels": labels}


def _strided(images: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def _normed(images: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return (images - mean) / np.sqrt(variance + 1e-5)


def _decayed(weight: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight = weight - 0.1 * velocity
    return weight


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _smoothed(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    targets = 0.9 * np.eye(10)[labels] + 0.1 / 10
    return -(targets * np.log(_softmax(logits))).sum(1).mean()


def _stepped(features: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    velocity = np.zeros_like(weight)
    for rate in (0.1, 0.01):
        wrong = (_softmax(features @ weight.T) - np.eye(3)[labels]) / len(labels)
        velocity = 0.9 * velocity + wrong.T @ features
        weight = weight - rate * velocity
    return weight


def _flattened(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1) @ weight.T


IDIOMS = (
    Idiom(
        "padding",
        "Padding at stride 2",
        "`padding=1` of PyTorch is one pixel on every side. `SAME`, which Flax does unless told "
        "and Keras where it is asked, pads as little as gives the size, and the odd pixel behind: "
        "at stride 2 on even sizes nothing in front, one behind. The shapes are the same, so no "
        "test of shapes sees it; on odd sizes the numbers are, too.",
        (
            ("keras-team/keras#16363", "outputs differ from PyTorch's, only at stride 2"),
            ("taehoonlee/tensornets#25", "SAME at stride 2, case by case"),
            ("google/flax#963", '"padding was indeed the issue"'),
            ("nntrainer/nntrainer#2219", "a ResNet-18 that padded SAME where PyTorch refuses to"),
            ("microsoft/MMdnn#379", "a ResNet converted from TensorFlow to PyTorch"),
            ("huggingface/pytorch-image-models#554", "porting weights, and matching the padding"),
            (
                "mlcommons/algorithmic-efficiency",
                "its two ImageNet ResNets differ by this alone in evaluation",
            ),
        ),
        lambda random: {**_images(random), "kernel": random.normal(size=(3, 3, 3, 8))},
        _strided,
        _limits(),
    ),
    Idiom(
        "momentum",
        "Batch norm's momentum",
        "PyTorch's momentum is the part of the new value, Keras' and Flax' that of the old one: "
        "0.1 there is 0.9 here. The defaults differ even so: 0.1, 0.99, 0.99. Nothing shows in "
        "evaluation of ported weights; training moves the statistics nine or a tenth times as far.",
        (
            ("pytorch/vision#8250", "MaxViT with the 0.99 of TensorFlow"),
            ("huggingface/transformers#19454", "TensorFlow models with the number of PyTorch"),
            ("fastestimator/fastestimator#1201", "PyTorch models with the number of TensorFlow"),
            ("d2l-ai/d2l-en#2213", "the moving average of the textbook's PyTorch"),
            ("ludwig-ai/ludwig#2100", "defaults kept when the backend changed"),
            ("scverse/scvi-tools#2309", "Flax' default where PyTorch's was meant"),
            ("Cadene/pretrained-models.pytorch#44", "0.9 in a PyTorch BNInception"),
            (
                "mlcommons/algorithmic-efficiency#783",
                "momentum 0 stops updates in PyTorch, where the other meaning was in mind",
            ),
        ),
        _images,
        lambda images: 0.1 * images.mean((0, 1, 2)),
        _limits(),
    ),
    Idiom(
        "variance",
        "Batch norm's stored variance",
        "All three normalise by the biased variance of the batch. PyTorch stores n / (n - 1) times "
        "it, Keras 3 and Flax store it as it is. In a last stage n is small (8 here), and after "
        "a step of training no stored variance can be equal unless one side is corrected.",
        (
            ("pytorch/pytorch#3122", "two variances in one layer, taken for a bug"),
            ("pytorch/pytorch#19902", "the same question"),
            ("pytorch/pytorch#60528", "the same question"),
            ("pytorch/pytorch#106366", "the same question"),
            ("tensorflow/tensorflow#55545", "`fused` or not: unbiased or biased"),
            ("ml-explore/mlx#3817", "MLX stored the biased one until 2026"),
            ("tenstorrent/tt-metal#55438", "the biased one where PyTorch's was meant"),
        ),
        _few,
        lambda images: 0.9 + 0.1 * images.var((0, 1, 2), ddof=1),
        _limits(),
    ),
    Idiom(
        "mode",
        "Batch norm's mode",
        "PyTorch and Flax NNX: a flag of the module, and a new one trains. Keras: an argument of "
        "the call, and a plain call evaluates. `no_grad` and `requires_grad_(False)` change no "
        "mode; in Keras, `trainable = False` does.",
        (
            (
                "keras-team/keras#9522",
                "`trainable = False`, and other outputs in training than in testing",
            ),
            ("keras-team/keras#9965", "the proposal that a frozen norm evaluates"),
            (
                "jax-ml/bonsai",
                "its ResNet has `use_running_average=True` written in: it never trains its norms",
            ),
        ),
        lambda random: {
            **_images(random),
            "mean": random.normal(size=3),
            "variance": random.uniform(0.5, 1.5, 3),
        },
        _normed,
        _limits(),
    ),
    Idiom(
        "weight_decay",
        "Weight decay",
        "`weight_decay` of PyTorch's SGD is added to the gradient and goes through the velocity; "
        "Keras' argument of the same name shrinks the weights beside it, as AdamW does; optax says "
        "by the order of a chain which of the two it is. Without momentum they agree.",
        (
            (
                "benchopt/benchmark_resnet_classif#30",
                "the coupling was why one side did not perform as well",
            ),
            ("d2l-ai/d2l-en#2034", "one number means another strength in another tab"),
        ),
        lambda random: {
            "weight": random.normal(size=(4, 3)),
            "gradients": random.normal(size=(5, 4, 3)),
        },
        _decayed,
        _limits(keras=FLOAT32),
        visible=1e-4,
    ),
    Idiom(
        "label_smoothing",
        "Label smoothing",
        "An argument of the loss in PyTorch, which takes logits and class numbers. Keras has it in "
        "the loss of one-hot rows alone, and takes probabilities unless `from_logits=True`; optax "
        "has a function for the rows. The amount, 0.1, means the same in all three.",
        (
            ("keras-team/keras#23487", "the sparse loss has none, up to 3.15"),
            ("tensorflow/tensorflow#46849", "the same, five years earlier"),
        ),
        _mostly_right,
        _smoothed,
        _limits(),
    ),
    Idiom(
        "initialisation",
        "Initialisation",
        "He's normal distribution by fan-out is nobody's default: PyTorch draws uniformly, with "
        "a sixth of the variance where fan-in is fan-out, Keras takes Glorot's, Flax LeCun's; and "
        "Keras' `he_normal` is by fan-in and truncated. Trained accuracies differ, and nothing "
        "else says so.",
        (
            ("google/flax#4388", "how to start torchvision's ResNet-18 in JAX"),
            ("mlcommons/training", "its two TensorFlow references start differently"),
            ("d2l-ai/d2l-en", "three initialisations in four tabs"),
        ),
        lambda random: {},
        lambda: np.sqrt(2 / (9 * 256)),
        dict.fromkeys(FRAMEWORKS, DRAWN),
        visible=0.1,
    ),
    Idiom(
        "random_numbers",
        "Random numbers",
        "A seed is an address in one generator. The same seed draws other numbers in every "
        "framework, on other devices, and in Flax under other names; what has to be equal is "
        "drawn once and handed over.",
        (
            ("tensorflow/tensorflow#54442", "one more variable, and all others draw other numbers"),
            ("pytorch/pytorch#97129", "two draws behind one seed, expected to be equal"),
            (
                "jalola/compare-tensorflow-pytorch#1",
                "how two frameworks are compared: weights are handed over",
            ),
        ),
        lambda random: {},
        lambda: np.random.default_rng(0).normal(size=(4, 5)),
        _limits(),
        visible=0.1,
    ),
    Idiom(
        "checkpoints",
        "Checkpoints",
        "Each has a way to load that passes over what does not fit: `strict=False`, "
        "`skip_mismatch=True`, an update by a state that holds nothing. The model that comes of it "
        "runs, with random weights.",
        (
            ("facebookresearch/swav#43", "nothing was loaded under `strict=False`"),
            ("huggingface/transformers#39388", "a warning was all"),
        ),
        lambda random: {
            "features": random.normal(size=(2, 4)),
            "weight": random.normal(size=(3, 4)),
        },
        lambda features, weight: features @ weight.T,
        _limits(),
    ),
    Idiom(
        "training_step",
        "A training step",
        "Keras' SGD has the learning rate inside the velocity (v = momentum v - rate g), PyTorch "
        "and optax' `sgd` outside of it. At a constant rate they are the same; with warm-up or a "
        "schedule, each change takes effect at once in one, little by little in the other.",
        (
            ("pytorch/pytorch#1099", "PyTorch's formula against the papers'"),
            ("jax-ml/jax#1528", "both formulas written out, and the one that JAX had"),
            ("cjlin1/simpleNN#7", "Keras' SGD is not TensorFlow's MomentumOptimizer"),
            (
                "paiml/aprender#2190",
                "a port that kept the rate inside, far off after one drop of the rate",
            ),
        ),
        lambda random: {
            "features": random.normal(size=(6, 4)),
            "labels": random.integers(0, 3, 6),
            "weight": random.normal(size=(3, 4)),
        },
        _stepped,
        _limits(keras=FLOAT32),
    ),
    Idiom(
        "freezing",
        "Freezing",
        "What is not differentiated still computes. A frozen norm of PyTorch or Flax goes on to "
        "average its batches while the network trains, unless it is put into evaluation mode too; "
        "Keras' `trainable = False` does both.",
        (
            ("keras-team/keras#7085", "frozen norms that still moved, in the Keras of 2017"),
            ("keras-team/keras#6570", "the request that `trainable = False` stops them"),
            ("pytorch/pytorch#10856", "how to stop the statistics alone"),
        ),
        _images,
        lambda images: np.zeros(3),
        _limits(),
        visible=0.01,
    ),
    Idiom(
        "precision",
        "Precision",
        "float32 unless told, each in its own way: PyTorch refuses inputs of another dtype, Keras "
        "casts them, JAX makes float32 arrays of float64 ones unless x64 is on. On a GPU, float32 "
        "convolutions may be TF32 besides.",
        (
            ("google/flax#1755", "float64 has to be turned on in JAX"),
            ("pytorch/pytorch#107514", "TF32 in convolutions, not in matrix products"),
            ("jax-ml/jax#12008", "TF32 in both"),
            ("keras-team/keras#20804", "a convolution is further off than the tests promise"),
        ),
        lambda random: {
            "features": random.normal(size=(5, 4)),
            "weight": random.normal(size=(3, 4)),
        },
        lambda features, weight: features @ weight.T,
        _limits(),
        visible=1e-9,
    ),
    Idiom(
        "layouts",
        "Layouts",
        "Kernels are OIHW in PyTorch, HWIO in the others, and a transposition of square ones fits "
        "by its shape. The one that is forgotten stands behind `flatten`: its features are "
        "channels first in PyTorch, channels last elsewhere.",
        (
            (
                "gzuidhof/nn-transfer#16",
                "`view` of PyTorch and `Flatten` of Keras are other orders",
            ),
            ("MegEngine/mgeconvert#78", "the linear layer behind `flatten` was left as it was"),
            ("google-ai-edge/litert-torch#88", "the wrong label: images were channels first"),
        ),
        lambda random: {
            "images": random.normal(size=(2, 4, 4, 3)),
            "weight": random.normal(size=(3, 48)),
        },
        _flattened,
        _limits(),
    ),
)
