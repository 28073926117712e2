"""How far two frameworks may differ: every tolerance of the project, with where it comes from.

The error of a tensor is its largest absolute difference over its largest absolute value (the
smaller of the two sides'). Float64 has fixed limits. A lower precision has a budget of its own for
every layer, measured with the trace: how far the framework, given the same weights and images, is
there from its own float64. Two frameworks may differ by `ROUNDING_FACTOR` times the smaller of
their two budgets, and by no more than rounding errors that add up like a random walk explain. So a
framework that is out of line cannot hide behind its own budget (TF32, or a half-precision
accumulator, is far beyond the walk).

Training below float64 has no limits: it is measured, and shown beside each framework's distance to
its own float64. Where an activation is zero within rounding, one framework's ReLU lets the gradient
through and another's does not, and a tensor whose own rounding is 1e-6 is off by 1e-2. Float64 has
the same kinks; no network of the tests has met one there.
"""

from __future__ import annotations

from shared.verification.recording import EVAL, GRADIENTS, STEP, TRAIN

# Activations of every layer and the output. The worst that `rosetta verify --all` measured in
# whole networks is 6.8e-13 (docs/verify-all.md): timm/resnetv2_152x2_bit in PyTorch, whose
# group norm computes x * scale + shift and cancels where a group's mean is large. All but the nets
# of BiT and one ablation without shortcuts (1.1e-13) are below 5e-14.
EVAL_FLOAT64 = 1e-12

TRAIN_FLOAT64 = 1e-12
GRADIENTS_FLOAT64 = 1e-10
STEPS_FLOAT64 = 1e-10
FLOAT64 = {
    EVAL: EVAL_FLOAT64,
    TRAIN: TRAIN_FLOAT64,
    GRADIENTS: GRADIENTS_FLOAT64,
    STEP: STEPS_FLOAT64,
}

# A channel of an activation by its own scale, where the weights are not the probe's: those of a
# trained network may leave channels that are tiny beside the others, which the error of the whole
# tensor does not see. Four sides with the bundled ResNet-20 of V1 and V2 and with akamaster's, in
# evaluation and training mode (`rosetta verify --weights FILE --check eval,train`): no channel
# differs by 8 times the median of its tensor's channels; by its own scale, the worst is 2.8e-14.
CHANNEL_FLOAT64 = 1e-8
CHANNEL_NOISE = 16.0  # times the median; what is below is rounding

# A gradient or optimizer state smaller than this part of the largest of its kind is taken for zero,
# and its error is measured by that largest one. Rounding leaves 1e-16 of it where the exact value
# is zero.
NEGLIGIBLE = 1e-11

# `rosetta verify --dtype float32 resnet50 keras/resnet50v2 cifar/preresnet164 bit/r50x1`: the
# largest difference over the smaller budget is 12, in the first norm of bit/r50x1.
ROUNDING_FACTOR = 16.0

# Layer n's error after n roundings: this many units in the last place times sqrt(n). The same
# command gives 5 in all networks but bit/r50x1, where PyTorch's group norm reaches 85. TF32 is
# beyond it at the first convolution.
ERROR_GROWTH = 128.0

# No budget is tighter than this many units in the last place of the dtype: a layer that a
# framework happens to compute exactly must not forbid the other its rounding.
ROUNDING_FLOOR_ULPS = 4.0
ULP = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

DTYPES = ("float64", *ULP)


def rounding_limit(dtype: str, place: int, *budgets: float) -> float:
    """The limit of layer number `place` in a low precision, from the budgets of those that computed
    it.
    """
    walk = ERROR_GROWTH * ULP[dtype] * (place + 1) ** 0.5
    return max(min(ROUNDING_FACTOR * min(budgets), walk), ROUNDING_FLOOR_ULPS * ULP[dtype])
