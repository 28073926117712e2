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
            (
                "google-deepmind/deepmind-research#84",
                "BYOL's ResNet-50 in PyTorch: 70 % on ImageNet, 74.6 % with the padding right",
            ),
            ("google/flax#2993", "torchvision's ResNet-18 parts from Flax' in the first layer"),
            ("microsoft/MMdnn#379", "a ResNet-50 converted to PyTorch whose sizes do not fit"),
            (
                "huggingface/pytorch-image-models#554",
                'porting is "fiddly, especially to get the padding matched up"',
            ),
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
                "set to 0 to stop updates; the two norms of its own then kept the last batch",
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
            ("pytorch/pytorch#19902", "the same"),
            ("pytorch/pytorch#60528", "the same"),
            ("pytorch/pytorch#77427", "the documentation said biased; so do #83256 and #106366"),
            (
                "keras-team/keras#9028",
                "the Keras of 2018 stored the unbiased one; Keras 3 does not",
            ),
            ("tinygrad/tinygrad#807", "a test against PyTorch's stored variance failed"),
            (
                "tensorflow/tensorflow#55545",
                "with `fused=True` unbiased, with `fused=False` biased",
            ),
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
                "all layers frozen, and another loss in training than in testing (Keras 2.1)",
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
                "weight decay coupled otherwise: the reason why TensorFlow's side did worse",
            ),
            ("d2l-ai/d2l-en#2034", "3 in PyTorch's tab is 0.03 in TensorFlow's, at the rate 0.01"),
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
            ("google/flax#4388", "Flax' ResNet does not start as torchvision's; how to make it"),
            (
                "mlcommons/algorithmic-efficiency#194",
                "PyTorch's ResNet-50 of the benchmark did not start as JAX' until then",
            ),
            ("google/flax#3125", "ported training scripts start otherwise, and no page says so"),
            (
                "mlcommons/training",
                "its two TensorFlow references start with variances 1 / n and 2 / n",
            ),
            ("d2l-ai/d2l-en", "one ResNet-18 in four tabs: three start by Xavier, JAX' by LeCun"),
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
            (
                "pytorch/pytorch#97129",
                "the last layer deleted, and the first starts with other numbers",
            ),
            ("pytorch/pytorch#80202", "`randn` draws other numbers where the tensor is larger"),
            (
                "jalola/compare-tensorflow-pytorch#1",
                "how two frameworks are compared: the same weights are put into both",
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
            (
                "facebookresearch/swav#43",
                "no tensor was loaded under `strict=False`, and no error came",
            ),
            (
                "huggingface/transformers#39388",
                "a ResNet-18 in Flax: its blocks were drawn anew, and a warning was all",
            ),
            ("keras-team/keras#10265", "`by_name=True` took tensors of other shapes, in 2018"),
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
            ("jax-ml/jax#1528", "both formulas written out; JAX had a third until then"),
            ("cjlin1/simpleNN#7", "Keras' SGD is not TensorFlow's MomentumOptimizer"),
            (
                "paiml/aprender#2190",
                "the rate was inside the velocity: -0.2 instead of -0.119 after one drop of it",
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
            ("google/flax#1755", "errors of 1e-6 in what was thought to be float64"),
            ("pytorch/pytorch#107514", "a 3090's convolutions, taken for wrong: TF32"),
            ("jax-ml/jax#12008", "JAX' own tests failed on an A100: TF32"),
            (
                "typoverflow/flow-rl#12",
                "TF32 in JAX' matrix products and not in PyTorch's; results were off",
            ),
            ("keras-team/keras#20804", "a convolution is further off than the documentation said"),
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
                "`view` of PyTorch and `Flatten` of Keras have other orders: nothing fitted",
            ),
            (
                "MegEngine/mgeconvert#78",
                "the linear layer behind `flatten` has to be transposed, too, and was not",
            ),
            ("google-ai-edge/litert-torch#88", "wrong labels: the converted ResNet-50 kept NCHW"),
        ),
        lambda random: {
            "images": random.normal(size=(2, 4, 4, 3)),
            "weight": random.normal(size=(3, 48)),
        },
        _flattened,
        _limits(),
    ),
)
