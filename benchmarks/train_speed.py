"""Training steps of ResNet-50 and ResNet-20, ours as users run them, against each framework's usual
ones.

Ours is `Trainer.step`. Both sides are fed the same NumPy arrays, do forward pass, loss, backward
pass and update (SGD with momentum and weight decay), and return the loss as a number; ours counts
the right answers, too.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import BATCH, ROUNDS, SIZE, Result, race
from shared import get_spec
from shared.architecture.spec import ResNetSpec
from shared.frameworks.registry import FRAMEWORKS, load_package
from shared.training.config import Training
from shared.training.recipes import get_recipe
from shared.weights.initial import initial_weights

RECIPE = "fashion-mnist/resnet20"
PEERS = {
    "torch": "benchmarks.plain_torch",
    "keras:tensorflow": "benchmarks.plain_keras",
    "flax": "benchmarks.plain_nnx",
}
LEARNING_RATE = 0.01
WARMUPS = 3  # compilers look at a step again when its arguments come from the step before


@dataclass(frozen=True)
class Net:
    """What is trained: one network, one shape of the batch."""

    name: str  # to the peers
    title: str
    spec: ResNetSpec
    batch: int
    size: int
    rounds: int

    @property
    def image(self) -> tuple[int, int, int]:
        return self.size, self.size, self.spec.in_channels

    def batch_of_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """What a step is fed."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((self.batch, *self.image), dtype=np.float32)
        return images, rng.integers(self.spec.num_classes, size=self.batch)


def nets(framework: str, quick: bool = False) -> list[Net]:
    """ResNet-50 as the framework's peer defines it, and ResNet-20 as the recipe has it.

    `quick` ones are tiny.
    """
    deep = get_spec("keras/resnet50" if framework.startswith("keras") else "torchvision/resnet50")
    recipe = get_recipe(RECIPE)
    small = recipe.make_spec()
    side = small.image_size
    if quick:
        return [
            Net("resnet50", "ResNet-50, quick", deep, 2, 32, 2),
            Net("resnet20", "ResNet-20, quick", small, 4, side, 2),
        ]
    return [
        Net(
            "resnet50", f"ResNet-50, batch {BATCH}, {SIZE} x {SIZE} x 3", deep, BATCH, SIZE, ROUNDS
        ),
        Net(
            "resnet20",
            f"ResNet-20, batch {recipe.batch}, {side} x {side} x 1",
            small,
            recipe.batch,
            side,
            31,
        ),
    ]


def main(framework: str, quick: bool) -> list[Result]:
    """One framework's races, in this process."""
    package, plain = load_package(FRAMEWORKS[framework]), importlib.import_module(PEERS[framework])
    training: Training = get_recipe(RECIPE).training
    results = []
    for net in nets(framework, quick):
        model = package.build(net.spec, dtype="float32")
        package.load_weights(model, initial_weights(net.spec, 0, "float32"))
        trainer = package.Trainer(model, training)
        peer = plain.build(net.name, net.image, net.spec.num_classes)
        theirs = plain.training_step(peer, training.optimizer, LEARNING_RATE)
        images, labels = net.batch_of_noise()
        results.append(
            race(
                net.title,
                plain.NAMES[net.name],
                lambda: trainer.step(images, labels, LEARNING_RATE),  # noqa: B023 - called at once
                lambda: theirs(images, labels),  # noqa: B023
                net.rounds,
                WARMUPS,
            )
        )
    return results
