"""The trainers under one contract: PyTorch's, Keras', Flax' and the reference's.

`Side` is what the tests need of a framework beyond `shared.verification.recording.Trainer`; each
subclass says it in its framework's words. A framework is imported when its side is made.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from shared import ResNetSpec
from shared.training.config import PROBE, Training
from shared.weights.canonical import Weights, to_channels_last
from tests.probes import loaded

# Sides whose steps are not compiled; the others take seconds for every one.
SOONEST = ("torch", "reference")

# And where a new network costs less than a second: what Flax does is in the zoo.
SOON = (*SOONEST, "keras")


class Side:
    """One framework's models and trainers."""

    name: str
    requires: str | None = None
    trains_in_half_precision = True
    eager: ClassVar[dict[str, Any]] = {}  # to a `Trainer` whose steps are not compiled as a whole

    def __init__(self) -> None:
        if self.requires:
            pytest.importorskip(self.requires)
        self.package = self.import_package()

    def import_package(self) -> ModuleType:
        return importlib.import_module(f"resnet_{self.name}")

    @property
    def train(self) -> ModuleType:
        return importlib.import_module(f"resnet_{self.name}.train")

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        """Where models of `dtype` are built and trained."""
        return nullcontext()

    def loaded(self, spec: ResNetSpec, dtype: str = "float64") -> Any:
        """A model with its probe weights."""
        return loaded(self.package, spec, dtype)

    def trainer(self, spec: ResNetSpec, training: Training = PROBE, dtype: str = "float64") -> Any:
        """Of a model with its probe weights."""
        return self.trainer_of(self.loaded(spec, dtype), training)

    def trainer_of(self, model: Any, training: Training = PROBE) -> Any:
        return self.train.Trainer(model, training, **self.eager)

    def tensor(self, array: np.ndarray) -> Any:
        """What the framework computes with."""
        raise NotImplementedError

    def cross_entropy(self, logits: np.ndarray, labels: np.ndarray, smoothing: float) -> np.ndarray:
        """Of logits [batch, classes] or [batch, height, width, classes]; an array of no axes."""
        logits, labels = self.tensor(logits), self.tensor(labels)
        return np.asarray(self.train.cross_entropy(logits, labels, smoothing))

    def loss(
        self, trainer: Any, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray]
    ) -> float:
        """In training mode, of the model as it is."""
        return trainer.gradients(images, labels, masks).loss

    def update(self, trainer: Any, gradients: Mapping[str, np.ndarray], rate: float) -> None:
        """The optimizer's step by gradients of all that is trained."""
        raise NotImplementedError

    def kept_by(self, trainer: Any) -> list[str]:
        """The dtypes of all arrays that the optimizer keeps, but for counters."""
        return [array.dtype.name for array in trainer.state().values()]

    def snapshot(self, model: Any) -> dict[str, Any]:
        """All of a model, and of the process, that a trace must leave as it was."""
        return {name: array.tobytes() for name, array in self.package.export_weights(model).items()}

    def disturb(self, model: Any) -> None:
        """Leave the model in a mode of its own, as somebody does who freezes a part of it."""


class Torch(Side):
    name = requires = "torch"

    def tensor(self, array: np.ndarray) -> Any:
        import torch

        tensor = torch.from_numpy(array)
        return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor

    def loss(
        self, trainer: Any, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray]
    ) -> float:
        import torch

        with torch.no_grad():
            x = self.train.to_tensor(images, trainer.model)
            logits = self.train.forward(trainer.model, x, trainer.training, masks)
            smoothing = trainer.training.label_smoothing
            return self.train.cross_entropy(logits, self.tensor(labels), smoothing).item()

    def update(self, trainer: Any, gradients: Mapping[str, np.ndarray], rate: float) -> None:
        import torch

        for name, parameter in trainer.parameters.items():
            parameter.grad = torch.from_numpy(gradients[name])
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        trainer.optimizer.step()

    def kept_by(self, trainer: Any) -> list[str]:
        slots = [
            s for state in trainer.optimizer.state.values() for k, s in state.items() if k != "step"
        ]
        gradients = [parameter.grad for parameter in trainer.parameters.values()]
        return [str(t.dtype).removeprefix("torch.") for t in (*slots, *gradients)]

    def snapshot(self, model: Any) -> dict[str, Any]:
        import torch

        parameters = dict(model.named_parameters())
        return super().snapshot(model) | {
            "counters": [int(t) for name, t in model.named_buffers() if name.endswith("tracked")],
            "modes": [module.training for module in model.modules()],
            "hooks": [bool(module._forward_hooks) for module in model.modules()],
            "trained": [name for name, p in parameters.items() if p.requires_grad],
            "gradients": [name for name, p in parameters.items() if p.grad is not None],
            "random": torch.get_rng_state().tolist(),
        }

    def disturb(self, model: Any) -> None:
        model.eval()
        model.stem.train()
        model.head.weight.requires_grad_(False)


class Keras(Side):
    name = requires = "keras"
    eager: ClassVar[dict[str, Any]] = {"compiled": False}

    def import_package(self) -> ModuleType:
        if os.environ["KERAS_BACKEND"] == "jax":
            os.environ["JAX_ENABLE_X64"] = "1"
        return super().import_package()

    def tensor(self, array: np.ndarray) -> Any:
        import keras

        return keras.ops.convert_to_tensor(array)

    def loss(
        self, trainer: Any, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray]
    ) -> float:
        with importlib.import_module("resnet_keras.dropout").keeping(trainer.model, masks):
            logits = trainer.model(self.tensor(images), training=True)
        smoothing = trainer.training.label_smoothing
        return float(self.train.cross_entropy(logits, self.tensor(labels), smoothing))

    def update(self, trainer: Any, gradients: Mapping[str, np.ndarray], rate: float) -> None:
        canonical = importlib.import_module("resnet_keras.weights").canonical_variables(
            trainer.model
        )
        names = {id(variable): name for name, variable in canonical.items()}
        trainer.optimizer.learning_rate = rate
        trainer.optimizer.apply(
            [
                self.tensor(to_channels_last(name, gradients[name]).astype(variable.dtype))
                for variable in trainer.model.trainable_variables
                for name in [names[id(variable)]]
            ]
        )

    def kept_by(self, trainer: Any) -> list[str]:
        return [str(variable.dtype) for variable in trainer.optimizer.variables[1:]]

    def snapshot(self, model: Any) -> dict[str, Any]:
        from tests.keras_backend_parity import global_state

        trained = [layer.trainable for layer in model.layers]
        return super().snapshot(model) | global_state() | {"trained": trained}

    def disturb(self, model: Any) -> None:
        model.layers[1].trainable = False


class Flax(Side):
    name, requires = "flax", "flax.nnx"
    eager: ClassVar[dict[str, Any]] = {"compiled": False}

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        import jax

        return jax.enable_x64(dtype == "float64")

    def tensor(self, array: np.ndarray) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(array)

    def loss(
        self, trainer: Any, images: np.ndarray, labels: np.ndarray, masks: Mapping[str, np.ndarray]
    ) -> float:
        kept = {name: self.tensor(mask) for name, mask in masks.items()}
        model = self.train.in_training(trainer.model, trainer.training, kept)
        logits = self.train.layer_by_layer(model)(self.tensor(images))
        smoothing = trainer.training.label_smoothing
        return float(self.train.cross_entropy(logits, self.tensor(labels), smoothing))

    def update(self, trainer: Any, gradients: Mapping[str, np.ndarray], rate: float) -> None:
        from flax import nnx

        name_of = self.train.canonical_name
        state = nnx.map_state(
            lambda path, p: p.replace(
                self.tensor(to_channels_last(name_of(path), gradients[name_of(path)]))
            ),
            nnx.state(trainer.model, trainer.optimizer.wrt),
        )
        dtype = trainer.dtype
        self.train._update(
            trainer.optimizer, trainer.model, state, self.tensor(np.asarray(rate, dtype))
        )

    def kept_by(self, trainer: Any) -> list[str]:
        import jax
        from flax import nnx

        leaves = jax.tree.leaves(nnx.state(trainer.optimizer))
        return [array.dtype.name for array in leaves if array.ndim]

    def snapshot(self, model: Any) -> dict[str, Any]:
        """The graph holds the modes of all layers, the state the random keys of dropouts."""
        import jax
        import jax.numpy as jnp
        from flax import nnx

        def bytes_of(leaf: Any) -> bytes:
            key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return np.array(jax.random.key_data(leaf) if key else leaf).tobytes()

        state = [bytes_of(leaf) for leaf in jax.tree.leaves(nnx.state(model))]
        return {"graph": nnx.graphdef(model), "state": state}

    def disturb(self, model: Any) -> None:
        model.eval()
        model.stem.train()


class Reference(Side):
    name = "reference"
    trains_in_half_precision = False  # its sums are NumPy's, which widens some of them

    def import_package(self) -> ModuleType:
        return importlib.import_module("shared.frameworks.reference")

    @property
    def train(self) -> ModuleType:
        return self.package

    def tensor(self, array: np.ndarray) -> Any:
        return array

    def update(self, trainer: Any, gradients: Mapping[str, np.ndarray], rate: float) -> None:
        weights: Weights = trainer.model.weights
        trainer.model.weights = weights | trainer.optimizer.update(weights, gradients, rate)


SIDES = {side.name: side for side in (Torch, Keras, Flax, Reference)}
