"""Training recipes as data: dataset, network, augmentation, batch, optimizer, schedule, length and
seed.

A recipe says all that decides the numbers of a run; nothing of it depends on the framework that
trains.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from shared.architecture.fields import CheckedDataclass, require
from shared.architecture.preprocessing import PREPROCESSING
from shared.architecture.presets import get_spec, list_presets
from shared.architecture.spec import ResNetSpec
from shared.errors import SpecError, nearest
from shared.training.augmentation import Augmentation
from shared.training.config import OptimizerConfig, Training

# What a recipe may be called: it names a folder below the folder of runs.
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)*", re.ASCII)
MAX_NAME = 200  # characters
MAX_COUNT = 1 << 40  # of steps, epochs and images


@dataclass(frozen=True, kw_only=True)
class Schedule(CheckedDataclass):
    """The learning rate of step 1, 2, …, as a function of the step alone.

    `steps` multiplies the rate by `factor` at each of `drops`; `cosine` falls to zero at the last
    step. The first `warmup` steps rise linearly from `warmup_rate` to the full rate, or stay at
    `warmup_rate` where `flat`. Raises `SpecError` naming the field.
    """

    label: ClassVar[str] = "schedule"
    prefix: ClassVar[str] = "schedule."

    kind: Literal["constant", "steps", "cosine"] = "constant"
    rate: float = 0.1
    drops: tuple[int, ...] = ()  # the step after which the rate drops
    factor: float = 0.1
    warmup: int = 0
    warmup_rate: float = 0.01
    flat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rate", "warmup", "warmup_rate"):
            value = getattr(self, name)
            require(value >= 0, f"schedule.{name}", value, "must not be negative")
        require(0 < self.factor <= 1, "schedule.factor", self.factor, "must be in (0, 1]")

    def __call__(self, step: int, total: int) -> float:
        """The rate of `step`, from 1 to `total`."""
        if step <= self.warmup:
            part = 0.0 if self.flat else (step - 1) / self.warmup
            return self.warmup_rate + part * (self.rate - self.warmup_rate)
        if self.kind == "steps":
            return self.rate * self.factor ** sum(step > drop for drop in self.drops)
        if self.kind == "cosine":
            done = (step - 1 - self.warmup) / max(1, total - self.warmup)
            return self.rate * (1 + math.cos(math.pi * done)) / 2
        return self.rate


@dataclass(frozen=True, kw_only=True)
class Recipe(CheckedDataclass):
    """One training run. `epochs` or `steps` says how long; `spec` holds changes to the preset.

    Raises `SpecError` naming the field.
    """

    label: ClassVar[str] = "recipe"

    name: str
    about: str  # where the recipe comes from
    dataset: str
    preset: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: Training = field(default_factory=Training)
    schedule: Schedule = field(default_factory=Schedule)
    batch: int = 128
    epochs: int | None = None
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.name) <= MAX_NAME and _NAME.fullmatch(self.name) is not None,
            "name",
            repr(self.name),
            f"must be at most {MAX_NAME} letters, digits and _.+- in parts that a / separates and "
            "no punctuation begins",
        )
        if (self.epochs is None) == (self.steps is None):
            raise SpecError(f"recipe {self.name}: say epochs or steps")
        for name in ("batch", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None:
                require(1 <= value <= MAX_COUNT, name, value, f"must be from 1 to {MAX_COUNT}")
        require(0 <= self.seed < 1 << 64, "seed", self.seed, "must be from 0 to 2**64 - 1")

    def make_spec(self) -> ResNetSpec:
        """The network that is trained."""
        return get_spec(self.preset).replace(**self.spec)

    def total_steps(self, examples: int) -> int:
        """Steps of the whole run on a training split of so many examples; a last batch that is
        short is left out.
        """
        each = examples // self.batch
        if each < 1:
            raise SpecError(f"recipe {self.name}: a batch of {self.batch} from {examples} examples")
        return self.steps if self.steps is not None else each * (self.epochs or 0)

    def replace(self, changes: Mapping[str, Any]) -> Recipe:
        """A copy with fields changed: `batch`, `schedule.rate`, `training.optimizer.kind`,
        `spec.depths`, …

        `epochs` and `steps` take each other's place. Raises `SpecError` for a field that there is
        not.
        """
        data = self.to_dict()
        for key, value in changes.items():
            *groups, last = ["spec", key[5:]] if key.startswith("spec.") else key.split(".")
            place = data
            for group in groups:
                place = place.get(group) if isinstance(place, dict) else None  # type: ignore[assignment]
            if not isinstance(place, dict) or (last not in place and groups != ["spec"]):
                found = f"recipe has no field {key!r}{nearest(key, list(_keys(data)))}"
                raise SpecError(f"{found}; `rosetta recipes --json -` shows all")
            place[last] = value
            other = {"epochs": "steps", "steps": "epochs"}.get(key)
            if other and other not in changes:
                data[other] = None
        return self.from_dict(data)


def _keys(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


# The augmentation of CIFAR in both papers: 4 pixels of padding, a random 32 x 32 crop, flips.
_CIFAR = Augmentation(pad_crop=4, flip=True, per_pixel_mean=True)
_PAPER = Training(optimizer=OptimizerConfig(momentum=0.9, weight_decay=1e-4))
_GREY, _COLOUR = PREPROCESSING["fashion-mnist"], PREPROCESSING["imagenet"]
_FASHION = Augmentation(pad_crop=2, flip=True, mean=_GREY.mean[:1], std=_GREY.std[:1])


def _fashion() -> Iterator[Recipe]:
    yield Recipe(
        name="fashion-mnist/d2l-resnet18",
        about="Dive into Deep Learning's ResNet-18, article 001, as printed: 96 pixels, Adam "
        "1e-3, 5 epochs; 0.926",
        dataset="fashion-mnist",
        preset="d2l/resnet18",
        augmentation=Augmentation(resize=96),
        training=Training(optimizer=OptimizerConfig(kind="adam", weight_decay=0.0)),
        schedule=Schedule(rate=1e-3),
        batch=256,
        epochs=5,
    )
    for name, preset in (("resnet20", "cifar/resnet20"), ("resnet20-v2", "cifar/preresnet20")):
        yield Recipe(
            name=f"fashion-mnist/{name}",
            about="a CIFAR network on 28 x 28 pixels, for two cores",
            dataset="fashion-mnist",
            preset=preset,
            spec={"in_channels": 1, "image_size": 28},
            augmentation=_FASHION,
            training=_PAPER,
            schedule=Schedule(kind="cosine", rate=0.1, warmup=200),
            batch=128,
            epochs=3,
        )


def _cifar(name: str, preset: str, about: str, *, warm: bool = False) -> Recipe:
    """Both papers: 64,000 steps of 128, rate 0.1, a tenth from step 32,000 and again
    from 48,000.
    """
    return Recipe(
        name=name,
        about=about,
        dataset="cifar10",
        preset=preset,
        augmentation=_CIFAR,
        training=_PAPER,
        schedule=Schedule(
            kind="steps", rate=0.1, drops=(32_000, 48_000), warmup=400 if warm else 0, flat=True
        ),
        batch=128,
        steps=64_000,
    )


def _cifar_recipes() -> Iterator[Recipe]:
    v1 = "He et al. 2015 (arXiv:1512.03385) §4.2"
    for depth in (20, 32, 44, 56, 110):
        warm = (
            depth == 110
            # "we use 0.01 to warm up the training until the training error is below 80% (about 400
            # …)"
        )
        yield _cifar(f"cifar10/resnet{depth}", f"cifar/resnet{depth}", v1, warm=warm)
    v2 = "He et al. 2016 (arXiv:1603.05027) appendix"
    for depth in (110, 164, 1001):
        if f"cifar/preresnet{depth}" in list_presets():
            yield _cifar(f"cifar10/preresnet{depth}", f"cifar/preresnet{depth}", v2, warm=True)
    for preset in list_presets():
        if preset.startswith("ablation/"):
            name = f"cifar10/{preset}"
            yield _cifar(name, preset, f"{v2}; tables 1 and 2", warm=True)


def _imagenet() -> Iterator[Recipe]:
    crop: dict[str, Any] = {
        "mean": _COLOUR.mean,
        "std": _COLOUR.std,
        "flip": True,
        "center_crop": 224,
        "eval_resize": 256,
    }
    yield Recipe(
        name="imagenet/resnet50",
        about="He et al. 2015 (arXiv:1512.03385) §3.4: scale and colour augmentation",
        dataset="imagenet",
        preset="resnet50_v1",
        augmentation=Augmentation(scale_crop=(256, 480), pca_noise=0.1, **crop),
        training=_PAPER,
        schedule=Schedule(kind="steps", rate=0.1, drops=(300_000, 450_000)),
        batch=256,
        steps=600_000,
    )
    yield Recipe(
        name="imagenet/resnet50-torchvision",
        about="pytorch/vision references/classification: 90 epochs, a tenth every 30, batch 256; "
        "IMAGENET1K_V1",
        dataset="imagenet",
        preset="torchvision/resnet50",
        augmentation=Augmentation(random_resized_crop=224, **crop),
        training=_PAPER,
        schedule=Schedule(kind="steps", rate=0.1, drops=(150_120, 300_240)),
        batch=256,
        epochs=90,
    )


@functools.cache
def recipes() -> dict[str, Recipe]:
    """All recipes by name."""
    return {recipe.name: recipe for recipe in (*_fashion(), *_cifar_recipes(), *_imagenet())}


def get_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe, with fields changed as `Recipe.replace` takes them.

    >>> recipe = get_recipe("cifar10/resnet20", {"batch": 64, "schedule.rate": 0.05})
    >>> recipe.preset, recipe.steps, recipe.training.optimizer.kind
    ('cifar/resnet20', 64000, 'sgd')

    Raises `SpecError` with the nearest names.
    """
    found = recipes().get(name)
    if found is None:
        raise SpecError(
            f"unknown recipe {name!r}{nearest(name, recipes())}; `rosetta recipes` lists them"
        )
    return found.replace(changes) if changes else found


def preprocessing_of(recipe: Recipe) -> str | None:
    """The name in `PREPROCESSING` of the mean and deviation of the recipe's images, if it has
    one.
    """
    how, channels = recipe.augmentation, recipe.make_spec().in_channels
    for name, known in PREPROCESSING.items():
        same = known.divisor == 255 and not known.reverse and not how.per_pixel_mean
        if same and (how.mean or (0.0,) * channels, how.std or (1.0,) * channels) == (
            known.mean[:channels],
            known.std[:channels],
        ):
            return name
    return None


def with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    return recipe if seed is None else replace(recipe, seed=seed)
