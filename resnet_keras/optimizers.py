"""SGD, Adam and AdamW with PyTorch's meaning, as Keras optimizers.

Keras' own ones mean something else by the same names. Its SGD has the learning rate inside the
velocity, so that a change of it takes effect only little by little; its weight decay is always
decoupled from the gradient; and its Adam adds epsilon before the bias correction of the second
average ("epsilon hat" of arXiv:1412.6980), and makes the corrections 1 - beta^t in float32 by a
subtraction that cancels.

Variables are read as the backend's own tensors and multiplied by Python's numbers: Keras' operators
make float32 tensors of such numbers on some backends, which a float64 model would feel.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable


class _Decaying(keras.optimizers.Optimizer):
    """A Keras optimizer with a weight decay of its own, on norms and biases (vectors) too if
    `decay_norms`.
    """

    def __init__(self, learning_rate: Any, decay: float, decay_norms: bool, **kwargs: Any):
        super().__init__(learning_rate, **kwargs)
        self.decay = decay
        self.decay_norms = decay_norms

    def decay_of(self, variable: Any) -> float:
        return self.decay if self.decay_norms or len(variable.shape) > 1 else 0.0

    def coupled(self, gradient: Any, variable: Any) -> Any:
        """The gradient with the weight decay added."""
        decay = self.decay_of(variable)
        return gradient + decay * kops.convert_to_tensor(variable) if decay else gradient

    def slot_of(self, slot: str, variable: keras.Variable) -> keras.Variable:
        """What is kept for a variable under PyTorch's name of the slot."""
        return getattr(self, slot)[self._get_variable_index(variable)]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["weight_decay"]  # Keras' own, which is decoupled
        return {**config, "decay": self.decay, "decay_norms": self.decay_norms}


@register_keras_serializable(package="resnet_rosetta")
class SGD(_Decaying):
    """`torch.optim.SGD`: v = momentum v + g, w = w - lr v; Nesterov: w = w - lr (g +
    momentum v).
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        decay: float = 0.0,
        decay_norms: bool = True,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, decay, decay_norms, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.momentum_buffer = (
            self.add_optimizer_variables(variables, "momentum_buffer") if self.momentum else []
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        step = gradient = self.coupled(gradient, variable)
        if self.momentum:
            buffer = self.momentum_buffer[self._get_variable_index(variable)]
            step = self.momentum * kops.convert_to_tensor(buffer) + gradient
            self.assign(buffer, step)
            if self.nesterov:
                step = gradient + self.momentum * step
        self.assign_sub(variable, kops.cast(learning_rate, variable.dtype) * step)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


@register_keras_serializable(package="resnet_rosetta")
class Adam(_Decaying):
    """`torch.optim.Adam`: w = w - lr m' / (sqrt(v') + eps) with the bias-corrected averages m' and
    v'.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decay: float = 0.0,
        decay_norms: bool = True,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, decay, decay_norms, **kwargs)
        self.betas = (betas[0], betas[1])  # a list, where it comes from JSON
        self.eps = eps

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.exp_avg, self.exp_avg_sq = self.add_optimizer_variables(
            variables, ["exp_avg", "exp_avg_sq"]
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self._adam(
            self.coupled(gradient, variable), variable, kops.cast(learning_rate, variable.dtype)
        )

    def _adam(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        averages = []
        steps = kops.cast(kops.convert_to_tensor(self.iterations) + 1, variable.dtype)
        values = (gradient, kops.square(gradient))
        for slot, beta, value in zip(
            (self.exp_avg, self.exp_avg_sq), self.betas, values, strict=True
        ):
            average = beta * kops.convert_to_tensor(slot[index]) + (1 - beta) * value
            self.assign(slot[index], average)
            # 1 - beta^steps: with beta = 0.999 the subtraction would cost float32 four of its seven
            # digits.
            averages.append(average / -kops.expm1(steps * math.log(beta)) if beta else average)
        first, second = averages
        self.assign_sub(variable, learning_rate * first / (kops.sqrt(second) + self.eps))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "betas": self.betas, "eps": self.eps}


@register_keras_serializable(package="resnet_rosetta")
class AdamW(Adam):
    """`torch.optim.AdamW`: Adam after w = w - lr decay w, instead of a decay in the gradient."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        learning_rate = kops.cast(learning_rate, variable.dtype)
        decay = self.decay_of(variable)
        if decay:
            self.assign_sub(variable, learning_rate * decay * kops.convert_to_tensor(variable))
        self._adam(gradient, variable, learning_rate)


class KeepGradients(keras.optimizers.Optimizer):
    """Keeps the gradients in its slots, where a step would be made of them."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        self.gradients = self.add_optimizer_variables(variables, "gradient")

    def gradient_of(self, variable: Any) -> keras.Variable:
        return self.gradients[self._get_variable_index(variable)]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign(self.gradient_of(variable), gradient)
