"""Training with PyTorch's own optimizers, which are what `shared.training.config` takes its meaning
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_torch.model import ResNet
from resnet_torch.weights import export_weights, model_dtype
from shared.architecture.plan import make_plan
from shared.training.config import OptimizerConfig, Training
from shared.verification.recording import Gradients, check_state
from shared.weights.canonical import cast_exactly

Masks = Mapping[str, np.ndarray]

CHECKPOINT = "checkpoint.pt"


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """The mean over the batch.

    Where the network returns an image, its channels averaged are the logits.
    """
    return F.cross_entropy(pooled(logits), labels, label_smoothing=label_smoothing)


def pooled(logits: Tensor) -> Tensor:
    """[N, classes], of an image averaged over height and width."""
    return logits.mean((2, 3)) if logits.ndim == 4 else logits


def make_optimizer(model: ResNet, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over what of the model requires a gradient, in groups of equal weight
    decay.

    The learning rate is 0 until a step brings its own.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(optimizer.decay_of(name, parameter.ndim), []).append(parameter)
    parameters = [{"params": members, "weight_decay": decay} for decay, members in groups.items()]
    if optimizer.kind == "sgd":
        return torch.optim.SGD(
            parameters, lr=0.0, momentum=optimizer.momentum, nesterov=optimizer.nesterov
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer.kind]
    return kind(parameters, lr=0.0, betas=optimizer.betas, eps=optimizer.eps)


class Trainer:
    """Trains a model where it is, on its device and in its dtype; the protocol is in
    `shared.verification.recording`.

    Only what `training` trains requires a gradient from here on, and kernels take the images'
    memory format, channels last. `model.compile()` beforehand compiles the step's forward and
    backward pass.
    """

    def __init__(self, model: ResNet, training: Training):
        self.model = model
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # documented, not in the stubs
        self.training = training
        parameters = dict(model.named_parameters())
        self.parameters = {
            name: parameters[name] for name in training.trainable(make_plan(model.spec))
        }
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self.parameters)
        self.optimizer = make_optimizer(model, training.optimizer)
        self.steps = 0
        self.correct = 0

    def gradients(
        self, images: np.ndarray, labels: np.ndarray, masks: Masks | None = None
    ) -> Gradients:
        """Of the loss, in training mode. Running statistics move; parameters do not."""
        x, y = to_tensor(images, self.model).requires_grad_(), self._labels(labels)
        logits = forward(self.model, x, self.training, masks)
        loss = cross_entropy(logits, y, self.training.label_smoothing)
        *by_tensor, by_images = torch.autograd.grad(loss, [*self.parameters.values(), x])
        return Gradients(
            loss=loss.item(),
            unsmoothed=cross_entropy(logits.detach(), y, 0.0).item(),
            tensors={
                name: to_array(grad) for name, grad in zip(self.parameters, by_tensor, strict=True)
            },
            images=to_nhwc(by_images),
        )

    def step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: float,
        masks: Masks | None = None,
    ) -> float:
        """One step of the optimizer; the loss before it."""
        self.optimizer.zero_grad()
        logits = forward(self.model, to_tensor(images, self.model), self.training, masks)
        y = self._labels(labels)
        loss = cross_entropy(logits, y, self.training.label_smoothing)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.steps += 1
        self.correct = int((pooled(logits.detach()).argmax(1) == y).sum())
        return loss.item()  # waits for the device, so last

    def weights(self) -> Mapping[str, np.ndarray]:
        """All canonical tensors, running statistics among them."""
        return export_weights(self.model)

    def state(self) -> Mapping[str, np.ndarray]:
        """`<slot>/<tensor>` for each slot of the optimizer and trained tensor; zeros before the
        first step.
        """
        state = {}
        for slot in self.training.optimizer.slots:
            for name, parameter in self.parameters.items():
                kept = self.optimizer.state.get(parameter, {}).get(slot)
                state[f"{slot}/{name}"] = to_array(
                    torch.zeros_like(parameter) if kept is None else kept
                )
        return state

    def load_state(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Go on from the `state()` that an equal trainer had after `steps` steps.

        Raises `CheckpointError` listing every tensor that is missing, extra, mis-shaped, not
        finite, or not exact in the model's dtype; the optimizer is then as it was.
        """
        slots = self.training.optimizer.slots
        shapes = {
            f"{slot}/{name}": tuple(p.shape)
            for slot in slots
            for name, p in self.parameters.items()
        }
        check_state(shapes, state)
        cast_exactly(state, model_dtype(self.model))
        for name, parameter in self.parameters.items():
            of: dict[str, Tensor] = {}
            for slot in slots:
                exact = torch.from_numpy(
                    np.array(state[f"{slot}/{name}"], np.float64)
                )  # it knows no NumPy bfloat16
                of[slot] = torch.empty_like(parameter, requires_grad=False).copy_(exact)
            if self.training.optimizer.kind != "sgd":
                of["step"] = torch.tensor(float(steps))  # as Adam makes it
            self.optimizer.state[parameter] = of
        self.steps = steps

    def save(self, folder: Path) -> None:
        """Model and optimizer as `state_dict`s, in one file of `torch.save`."""
        states = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }
        torch.save(states, folder / CHECKPOINT)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote, bit for bit."""
        states = torch.load(
            folder / CHECKPOINT, map_location=_first(self.model).device, weights_only=True
        )
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        self.steps = states["steps"]

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """What the network returns in evaluation mode, NHWC where it is an image.

        The model stays in that mode.
        """
        with torch.inference_mode():
            return to_nhwc(self.model.eval()(to_tensor(images, self.model)))

    def _labels(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(labels, np.int64)).to(_first(self.model).device)


def forward(model: ResNet, x: Tensor, training: Training, masks: Masks | None = None) -> Tensor:
    """The network in training mode, frozen norms apart, keeping what `masks` keep where a dropout
    has one.
    """
    model.train()
    if training.frozen_norms:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # synchronised ones, too
                module.eval()
    device = _first(model).device
    kept = {f"{name}.mask": torch.from_numpy(m).to(device) for name, m in (masks or {}).items()}
    return torch.func.functional_call(model, kept, x, tie_weights=False)


def to_tensor(images: np.ndarray, model: ResNet) -> Tensor:
    """NHWC images as NCHW, which is the channels_last memory format, in the model's dtype and on
    its device.
    """
    first = _first(model)
    return (
        torch.from_numpy(np.ascontiguousarray(images))
        .to(first.device, first.dtype)
        .permute(0, 3, 1, 2)
    )


def to_nhwc(tensor: Tensor) -> np.ndarray:
    """A copy of images or features with the channels last."""
    return to_array(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)


def to_array(tensor: Tensor) -> np.ndarray:
    """A contiguous copy; half precisions widen to float32, which holds them exactly."""
    tensor = tensor.detach()
    if tensor.itemsize < 4:
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy(), order="C")


def _first(model: ResNet) -> nn.Parameter:
    """It has the device and dtype of all."""
    return next(model.parameters())
