"""Training with optax, whose pieces are put together to mean what `shared.training.config` says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx

from resnet_flax.layers import get_layer, set_layer
from resnet_flax.model import ResNet
from resnet_flax.weights import export_weights, model_dtype, require_x64
from shared.architecture.plan import make_plan
from shared.training.config import BUFFER, FIRST, SECOND, OptimizerConfig, Training
from shared.verification.recording import Gradients, check_state
from shared.weights.canonical import Weights, cast_exactly, from_channels_last, to_channels_last

Masks = Mapping[str, Any]  # arrays by the name of a dropout

CHECKPOINT = "checkpoint"

# What PyTorch calls it -> what optax does.
SLOTS = {BUFFER: "trace", FIRST: "mu", SECOND: "nu"}

# NNX attribute -> canonical leaf.
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """The mean over the batch.

    Where the network returns an image, its channels averaged are the logits.
    """
    logits = pooled(logits)
    logits = logits.astype(
        jnp.promote_types(logits.dtype, jnp.float32)
    )  # of half precision, too few digits remain
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing)).mean()


def pooled(logits: jax.Array) -> jax.Array:
    """[N, classes], of an image averaged over height and width."""
    return logits.mean((1, 2)) if logits.ndim == 4 else logits


def make_optimizer(
    model: ResNet, optimizer: OptimizerConfig, wrt: Any = nnx.Param
) -> nnx.Optimizer:
    """SGD, Adam or AdamW over what the filter `wrt` finds in the model.

    Each update takes its own learning rate: `update(model, gradients, learning_rate=...)`.
    """
    parameters = nnx.state(model, wrt)
    decays = nnx.map_state(
        lambda path, p: optimizer.decay_of(canonical_name(path), p.ndim) > 0, parameters
    )
    decay = optax.add_decayed_weights(optimizer.weight_decay, mask=decays)
    if optimizer.kind == "sgd":
        momentum = (
            [optax.trace(optimizer.momentum, optimizer.nesterov)] if optimizer.momentum else []
        )
        parts = [decay, *momentum]
    else:
        adam = scale_by_adam(*optimizer.betas, optimizer.eps)
        parts = [decay, adam] if optimizer.kind == "adam" else [adam, decay]
    return nnx.Optimizer(model, optax.chain(*parts, scale_by_learning_rate()), wrt=wrt)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with exact corrections of the averages' bias in float32.

    Optax' are 1 - b2 ** count, of which float32 keeps five digits in the first steps.
    """
    stock = optax.scale_by_adam(b1, b2, eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _, state = stock.update(updates, state, params)
        first, second = (-jnp.expm1(state.count * math.log(b)) if b else 1.0 for b in (b1, b2))

        def scaled(mu: jax.Array, nu: jax.Array) -> jax.Array:
            return (mu / first) / (jnp.sqrt(nu / second) + eps)

        return jax.tree.map(scaled, state.mu, state.nu), state

    return optax.GradientTransformation(stock.init, update)


def scale_by_learning_rate() -> optax.GradientTransformationExtraArgs:
    """Minus the learning rate times the update, with a learning rate that is an argument of the
    update.

    Optax' own is a number or a schedule, part of the compiled step.
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any
    ) -> tuple[Any, Any]:
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class Trainer:
    """Trains a model where it is, in its dtype; the protocol is in `shared.verification.recording`.

    A `compiled` step is one program for each shape of the batch, with the learning rate and the
    masks for arguments. It takes over the memory of the model's arrays: a copy that shares them is
    gone. Without it each layer is a program of its own, and equal layers are one: the quicker way
    to a few steps of a deep network, over which XLA spends minutes as a whole.

    Raises `FrameworkError` for a float64 model in a process where JAX has float64 switched off.
    """

    def __init__(self, model: ResNet, training: Training, *, compiled: bool = True):
        self.model = model
        self.training = training
        self.correct = 0
        self.dtype = model_dtype(model)
        require_x64(self.dtype)
        trained = frozenset(training.trainable(make_plan(model.spec)))
        wrt = nnx.All(nnx.Param, lambda path, _: canonical_name(path) in trained)
        self.optimizer = make_optimizer(model, training.optimizer, wrt)
        for module in (model, self.optimizer):
            _commit(module)
        bind = _compile if compiled else partial
        layerwise = not compiled
        self._step = bind(
            partial(_step, training=training, layerwise=layerwise), model, self.optimizer
        )
        self._gradients = bind(
            partial(_gradients, wrt=wrt, training=training, layerwise=layerwise), model
        )
        self._evaluate = bind(partial(_evaluate, layerwise=layerwise), model)

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, masks: Masks | None = None
    ) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        losses, (by_tensor, by_images) = self._gradients(*self._batch(images, labels, masks))
        loss, unsmoothed = map(float, losses)
        return Gradients(loss, unsmoothed, _canonical(by_tensor), np.array(by_images))

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        masks: Masks | None = None,
    ) -> float:
        """One step of the optimizer; the loss before it."""
        rate = jnp.asarray(learning_rate, jnp.promote_types(self.dtype, jnp.float32))
        loss, correct = self._step(*self._batch(images, labels, masks), rate)
        self.correct = int(correct)
        return float(loss)

    def weights(self) -> Weights:
        """All canonical tensors, running statistics among them."""
        return export_weights(self.model)

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made; Adam needs to know."""
        return int(self.optimizer.step[...])

    def state(self) -> Weights:
        """`<slot>/<tensor>` for each slot of the optimizer and trained tensor, in
        canonical layout.
        """
        slots = {slot: _canonical(self._slot(slot)) for slot in self.training.optimizer.slots}
        return {
            f"{slot}/{name}": array
            for slot, tensors in slots.items()
            for name, array in tensors.items()
        }

    def load_state(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on with the `state()` that a trainer of the same kind had after `steps` steps.

        Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not
        finite, or not exact in the model's dtype; the optimizer is then as it was.
        """
        check_state({name: array.shape for name, array in self.state().items()}, state)
        exact = cast_exactly(state, self.dtype)
        for slot in self.training.optimizer.slots:
            for path, variable in nnx.to_flat_state(self._slot(slot)):
                name = canonical_name(path)
                # A copy, because JAX may go on using NumPy's memory.
                variable[...] = jnp.array(to_channels_last(name, exact[f"{slot}/{name}"]))
        self.optimizer.step[...] = jnp.asarray(steps, jnp.uint32)
        count = optax.tree.get(self.optimizer.opt_state, "count")  # Adam's own
        if count is not None:
            count[...] = jnp.asarray(steps, count.dtype)
        _commit(self.optimizer)

    def save(self, folder: Path) -> None:
        """Model and optimizer as one checkpoint of Orbax."""
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute() / CHECKPOINT, self._pure())

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, bit for bit."""
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.restore(folder.absolute() / CHECKPOINT, self._pure())
        for name, module in (("model", self.model), ("optimizer", self.optimizer)):
            state = nnx.state(module, nnx.Not(nnx.RngState))
            nnx.replace_by_pure_dict(state, found[name])
            nnx.update(module, state)
            _commit(module)

    def _pure(self) -> dict[str, Any]:
        """All arrays but the random streams': what is random comes in as masks."""
        modules = {"model": self.model, "optimizer": self.optimizer}
        return {
            name: nnx.to_pure_dict(nnx.state(m, nnx.Not(nnx.RngState)))
            for name, m in modules.items()
        }

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """What the network returns in evaluation mode, NHWC where it is an image."""
        return np.array(self._evaluate(jnp.asarray(images, self.dtype)))

    def _batch(
        self, images: np.ndarray, labels: np.ndarray, masks: Masks | None
    ) -> tuple[Any, ...]:
        kept = {name: jnp.asarray(mask) for name, mask in (masks or {}).items()}
        return jnp.asarray(images, self.dtype), jnp.asarray(labels), kept

    def _slot(self, slot: str) -> nnx.State:
        return optax.tree.get(self.optimizer.opt_state, SLOTS[slot])


def in_training(model: ResNet, training: Training, masks: Masks | None = None) -> ResNet:
    """A copy that shares the model's variables, in training mode, frozen norms apart.

    Where a dropout has a mask, it keeps what that says.
    """
    frozen = training.frozen_norms
    copy = nnx.with_attributes(
        model, deterministic=False, use_running_average=frozen, raise_if_not_found=False
    )
    for name, mask in (masks or {}).items():
        get_layer(copy, name).mask = mask
    return copy


def in_evaluation(model: ResNet) -> ResNet:
    """A copy that shares the model's variables, in evaluation mode."""
    return nnx.with_attributes(
        model, deterministic=True, use_running_average=True, raise_if_not_found=False
    )


def _step(
    model: ResNet,
    optimizer: nnx.Optimizer,
    images: jax.Array,
    labels: jax.Array,
    masks: Masks,
    learning_rate: jax.Array,
    *,
    training: Training,
    layerwise: bool,
) -> tuple[jax.Array, jax.Array]:
    """The loss before the step, and how many images it classified correctly."""

    def loss_of(model: ResNet) -> tuple[jax.Array, jax.Array]:
        logits = layer_by_layer(in_training(model, training, masks), layerwise)(images)
        correct = (pooled(logits).argmax(-1) == labels).sum()
        return cross_entropy(logits, labels, training.label_smoothing), correct

    differentiate = nnx.value_and_grad(
        loss_of, argnums=nnx.DiffState(0, optimizer.wrt), has_aux=True
    )
    (loss, correct), gradients = differentiate(model)
    _update(optimizer, model, gradients, learning_rate)
    return loss, correct


@nnx.jit
def _update(
    optimizer: nnx.Optimizer, model: ResNet, gradients: nnx.State, learning_rate: jax.Array
) -> None:
    """One program also where each layer is one: it takes less time to compile than each operation
    for each shape.
    """
    optimizer.update(model, gradients, learning_rate=learning_rate)


def _gradients(
    model: ResNet,
    images: jax.Array,
    labels: jax.Array,
    masks: Masks,
    *,
    wrt: Any,
    training: Training,
    layerwise: bool,
) -> tuple[tuple[jax.Array, jax.Array], tuple[nnx.State, jax.Array]]:
    """(loss, loss without label smoothing), gradients by (parameters, images)."""

    def loss_of(model: ResNet, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = layer_by_layer(in_training(model, training, masks), layerwise)(images)
        return cross_entropy(logits, labels, training.label_smoothing), cross_entropy(
            logits, labels, 0.0
        )

    return nnx.value_and_grad(loss_of, argnums=(nnx.DiffState(0, wrt), 1), has_aux=True)(
        model, images
    )


def _evaluate(model: ResNet, images: jax.Array, *, layerwise: bool) -> jax.Array:
    return layer_by_layer(in_evaluation(model), layerwise)(images)


def _commit(module: nnx.Pytree) -> None:
    """Tie all arrays to the devices where they are.

    What a program returns is tied to them as soon as one of its arguments is, as loaded weights
    are. A second step whose arguments are others in that respect would be compiled again.
    """
    nnx.update(
        module, jax.tree.map(lambda array: jax.device_put(array, array.sharding), nnx.state(module))
    )


def _compile(function: Any, *modules: nnx.Pytree) -> Any:
    """`functools.partial`, compiled. The modules' arrays are donated, and their structure is looked
    at once: going through it at each call takes longer than a step of a small network on a GPU.
    """
    return nnx.cached_partial(
        nnx.jit(function, donate_argnums=tuple(range(len(modules)))), *modules
    )


class CompiledLayer(nnx.Module):
    """A layer as a program of its own."""

    def __init__(self, layer: nnx.Module):
        self.layer = layer

    def __call__(self, x: jax.Array) -> jax.Array:
        return _run(self.layer, x)


@nnx.jit
def _run(layer: nnx.Module, x: jax.Array) -> jax.Array:
    return layer(x)


def layer_by_layer(model: ResNet, wanted: bool = True) -> ResNet:
    """The model, its layers replaced by `CompiledLayer`s if that is wanted.

    Equal layers are compiled once.
    """
    plan = make_plan(model.spec)
    blocks = {name for name, _ in plan.blocks()}
    for row in plan.layers if wanted else ():
        if row.name not in blocks:
            set_layer(model, row.name, CompiledLayer(get_layer(model, row.name)))
    return model


def canonical_name(path: tuple[Any, ...]) -> str:
    """The canonical tensor of a parameter's attribute path."""
    *layer, leaf = path
    return ".".join([*map(str, layer), LEAVES[leaf]])


def _canonical(state: nnx.State) -> Weights:
    """Copies of parameters, or of what has their paths and layouts."""
    named = ((canonical_name(path), variable) for path, variable in nnx.to_flat_state(state))
    return {name: from_channels_last(name, np.asarray(variable[...])) for name, variable in named}
