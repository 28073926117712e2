"""Training: the loss, the optimizer, and one step after the other.

`Trainer` takes batches, learning rates and dropout masks from its caller. The model and the
optimizers of `make_optimizer` also serve `model.compile` and `model.fit`.

No code here depends on the backend. All three compile and differentiate `train_on_batch` in their
own ways; gradients come out of it through an optimizer that stores them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops as kops

from resnet_keras.corrected import average
from resnet_keras.dropout import keeping
from resnet_keras.optimizers import SGD, Adam, AdamW, KeepGradients
from resnet_keras.weights import (
    canonical_variables,
    export_weights,
    policy_of,
    spec_of,
    weight_dtype,
)
from shared.architecture.plan import make_plan
from shared.errors import FrameworkError
from shared.training.config import OptimizerConfig, Training, norm_layers
from shared.verification.recording import Gradients, check_state
from shared.weights.canonical import Weights, cast_exactly, from_channels_last, to_channels_last
from shared.weights.dtypes import float_dtype

Masks = Mapping[str, np.ndarray]


MODEL, OPTIMIZER = "model.weights.h5", "optimizer.h5"
HALF = ("float16", "bfloat16")


def cross_entropy(logits: Any, labels: Any, label_smoothing: float) -> Any:
    """The mean over the batch.

    Where the network returns an image, its channels averaged are the logits.
    """
    logits = pooled(logits)
    if keras.backend.standardize_dtype(logits.dtype) in HALF:
        logits = kops.cast(logits, "float32")  # of half precision, too few digits remain
    classes = logits.shape[-1]
    targets = (
        kops.one_hot(labels, classes, dtype=logits.dtype) * (1 - label_smoothing)
        + label_smoothing / classes
    )
    # The losses of `keras.losses` cast to floatx.
    losses = kops.categorical_crossentropy(targets, logits, from_logits=True)
    return kops.squeeze(average(losses, (0,)), 0)


def pooled(logits: Any) -> Any:
    """[N, classes], of an image averaged over height and width."""
    return kops.squeeze(average(logits, (1, 2)), (1, 2)) if len(logits.shape) == 4 else logits


def make_optimizer(model: keras.Model, optimizer: OptimizerConfig) -> keras.optimizers.Optimizer:
    """The optimizer, built for what is trainable in the model.

    Its learning rate is 0 until one is assigned.
    """
    common: dict[str, Any] = {"decay": optimizer.weight_decay, "decay_norms": optimizer.decay_norms}
    made: keras.optimizers.Optimizer
    with floatx(weight_dtype(model)):  # of the learning rate; slots have their variables'
        if optimizer.kind == "sgd":
            made = SGD(0.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov, **common)
        else:
            kind = {"adam": Adam, "adamw": AdamW}[optimizer.kind]
            made = kind(0.0, betas=optimizer.betas, eps=optimizer.eps, **common)
    made.build(model.trainable_variables)
    return made


class Objective(keras.Model):
    """The network with its loss, as `train_on_batch` takes them: {"images": NHWC, "keep": dropout
    masks} and labels.

    `record` holds the losses of the last batch with and without label smoothing, and how many of
    its images the network classified correctly, in the loss's dtype: Keras' own records are
    metrics, in floatx. With `image_shape` there is a trainable `shift` of the images, which is
    zero: its gradient is that of the images.
    """

    def __init__(
        self,
        network: keras.Model,
        label_smoothing: float,
        image_shape: tuple[int, ...] | None = None,
    ):
        dtype = weight_dtype(network)
        super().__init__(dtype=dtype, name="objective")
        self.network = network
        self.label_smoothing = label_smoothing
        wide = "float32" if dtype in HALF else dtype
        self.record = self.add_weight((3,), "zeros", wide, trainable=False, name="record")
        self.shift = (
            self.add_weight(image_shape, "zeros", dtype, name="shift") if image_shape else None
        )
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        images = inputs["images"]
        if self.shift is not None:
            images = images + kops.convert_to_tensor(self.shift)
        with keeping(self.network, inputs["keep"]):
            return self.network(images, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = cross_entropy(y_pred, y, self.label_smoothing)
        unsmoothed = cross_entropy(y_pred, y, 0.0) if self.label_smoothing else loss
        hits = kops.equal(kops.argmax(pooled(y_pred), -1), kops.cast(y, "int32"))
        correct = kops.sum(kops.cast(hits, loss.dtype))
        self.record.assign(kops.stack([loss, unsmoothed, correct]))
        return loss


class Trainer:
    """A model and its optimizer; implements `shared.verification.recording.Trainer`. The model is
    trained in place.

    `compiled` steps are Keras' usual ones: a graph in TensorFlow, compiled by XLA in JAX, eager in
    PyTorch. They are compiled at the first step and for each new shape of the batch; the learning
    rate and the masks are their arguments. Without it all steps are eager: the quicker way to a few
    steps of a deep network. Raises `FrameworkError` for a model of policy mixed_float16.
    """

    def __init__(self, model: keras.Model, training: Training, *, compiled: bool = True):
        if policy_of(model).name == "mixed_float16":
            raise FrameworkError(
                "Trainer does not scale the loss, without which gradients in float16 vanish; "
                "build with mixed_bfloat16, or train by compile and fit, which scale it"
            )
        self.model = model
        self.training = training
        self.correct = 0
        self._eager = not compiled
        self._dtype = weight_dtype(model)
        self._plan = make_plan(spec_of(model))
        frozen = norm_layers(self._plan) if training.frozen_norms else frozenset()
        for layer in model.layers:
            # An untrainable norm in Keras uses its running statistics and does not move them.
            layer.trainable = layer.name not in frozen
        variables = canonical_variables(model)
        self._trained = {name: variables[name] for name in training.trainable(self._plan)}
        self.optimizer = make_optimizer(model, training.optimizer)
        self._objective = Objective(model, training.label_smoothing)
        self._objective.compile(self.optimizer, run_eagerly=self._eager)
        self._probe: Any = None  # an `Objective` for gradients, made when it is first needed

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, masks: Masks | None = None
    ) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        probe, keeper = self._gradient_probe(images.shape)
        probe.train_on_batch(self._inputs(images, masks), labels)
        loss, unsmoothed, _ = kops.convert_to_numpy(probe.record)
        tensors = {
            name: self._canonical(name, keeper.gradient_of(v)) for name, v in self._trained.items()
        }
        return Gradients(
            float(loss), float(unsmoothed), tensors, self._to_numpy(keeper.gradient_of(probe.shift))
        )

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        masks: Masks | None = None,
    ) -> float:
        """One step of the optimizer; the loss before it."""
        self.optimizer.learning_rate = learning_rate
        self._objective.train_on_batch(self._inputs(images, masks), labels)
        loss, _, correct = kops.convert_to_numpy(self._objective.record)
        self.correct = int(correct)
        return float(loss)

    def weights(self) -> Weights:
        """All canonical tensors, running statistics among them."""
        return export_weights(self.model)

    def state(self) -> Weights:
        """`<slot>/<tensor>` for each slot of the optimizer and trained tensor, in
        canonical layout.
        """
        return {key: self._canonical(key, variable) for key, variable in self._slots().items()}

    @property
    def steps(self) -> int:
        """How many steps the optimizer has made; Adam's corrections depend on it."""
        return int(kops.convert_to_numpy(self.optimizer.iterations))

    def load_state(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from the `state()` that an equal trainer had after `steps` steps.

        Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not
        finite, or not exact in the model's dtype; the optimizer is then as it was.
        """
        slots = self._slots()
        check_state({key: self._plan.tensors[key.partition("/")[2]] for key in slots}, state)
        exact = cast_exactly(state, self._dtype)
        for key, variable in slots.items():
            # A copy: JAX may keep the memory that it is given.
            variable.assign(to_channels_last(key, exact[key]).copy())
        self.optimizer.iterations.assign(steps)

    def save(self, folder: Path) -> None:
        """The model as `.weights.h5`, and the optimizer's variables as Keras stores
        them in HDF5.
        """
        self.model.save_weights(folder / MODEL)
        with h5py.File(folder / OPTIMIZER, "w") as file:
            self.optimizer.save_own_variables(file)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, bit for bit."""
        self.model.load_weights(folder / MODEL)
        dtype = float_dtype(self._dtype)
        with h5py.File(folder / OPTIMIZER) as file:
            arrays = {key: np.array(dataset) for key, dataset in file.items()}
        # HDF5 has no bfloat16, and gives it back as bytes of no type.
        self.optimizer.load_own_variables(
            {key: a.view(dtype) if a.dtype.kind == "V" else a for key, a in arrays.items()}
        )

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """What the network returns in evaluation mode, NHWC where it is an image."""
        return np.array(self._objective.predict_on_batch(self._inputs(images)))

    def _gradient_probe(self, image_shape: tuple[int, ...]) -> tuple[Objective, KeepGradients]:
        """An objective whose optimizer keeps the gradients, for images of this shape."""
        if self._probe is None or tuple(self._probe.shift.shape) != image_shape:
            self._probe = Objective(self.model, self.training.label_smoothing, image_shape)
            self._probe.compile(KeepGradients(), run_eagerly=self._eager)
            self._probe.optimizer.build(self._probe.trainable_variables)
        return self._probe, self._probe.optimizer

    def _inputs(self, images: np.ndarray, masks: Masks | None = None) -> dict[str, Any]:
        return {"images": kops.convert_to_tensor(images, self._dtype), "keep": dict(masks or {})}

    def _slots(self) -> dict[str, keras.Variable]:
        return {
            f"{slot}/{name}": self.optimizer.slot_of(slot, variable)
            for slot in self.training.optimizer.slots
            for name, variable in self._trained.items()
        }

    def _canonical(self, name: str, variable: keras.Variable) -> np.ndarray:
        array = from_channels_last(name, kops.convert_to_numpy(variable))
        return array.astype(float_dtype(self._dtype), copy=False)

    def _to_numpy(self, variable: keras.Variable) -> np.ndarray:
        """A copy in the model's dtype; the PyTorch backend hands bfloat16 out as float32."""
        return np.array(kops.convert_to_numpy(variable), float_dtype(self._dtype))


@contextmanager
def floatx(dtype: str) -> Iterator[None]:
    """The dtype of variables for which Keras is given none."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)
