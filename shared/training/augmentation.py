"""`Augmentation`: from the pixels of a dataset to what a network is fed, in training and in
evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shared.architecture.fields import CheckedDataclass, require

MAX_SIDE = 1 << 13  # pixels


@dataclass(frozen=True, kw_only=True)
class Augmentation(CheckedDataclass):
    """What happens to an image, in this order. All sides are in pixels. Raises `SpecError` naming
    the field.

    1. It is brought to its size, with torchvision's resizing of PIL images (bilinear, antialiased).
       Training: `random_resized_crop`, or `scale_crop` and `center_crop`, or `resize`. Evaluation:
       `resize`, or `eval_resize` and `center_crop`.
    2. Training: `pad_crop` and `flip`, each drawn for every example and epoch.
    3. It becomes a fraction of 255, and in training gets `pca_noise`.
    4. `(x - mean) / std`, in float32, where they are given; with `per_pixel_mean` the mean is an
    image.

    Datasets whose images have one size need nothing of 1.
    """

    label: ClassVar[str] = "augmentation"
    prefix: ClassVar[str] = "augmentation."

    resize: int | None = None  # to a square of this side, whatever the shape was
    pad_crop: int = (
        0  # pad by so many black pixels on every side, and crop back to the size at random
    )
    flip: bool = False  # left to right, every other time
    # Inception's: 8 to 100 % of the area, at a ratio of 3/4 to 4/3, to a square of this side
    # (torchvision's defaults).
    random_resized_crop: int | None = None
    center_crop: int | None = None  # the side of the square in the middle
    eval_resize: int | None = None  # the shorter side before `center_crop`
    # He et al. 2015, 3.4: the shorter side is drawn from [a, b], then a square of side
    # `center_crop` anywhere.
    scale_crop: tuple[int, int] | None = None
    # Krizhevsky et al. 2012, 4.1: the standard deviation of the multiples of the principal
    # components of RGB.
    pca_noise: float = 0.0
    mean: tuple[float, ...] = ()  # per channel, of values in [0, 1]
    std: tuple[float, ...] = ()
    # He et al. 2015, 4.2 (CIFAR-10): subtract the mean image of the training split, after padding
    # and cropping.
    per_pixel_mean: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        sides = {
            name: getattr(self, name)
            for name in ("resize", "random_resized_crop", "center_crop", "eval_resize")
        }
        sides |= {f"scale_crop[{i}]": side for i, side in enumerate(self.scale_crop or ())}
        for name, side in sides.items():
            _require(
                side is None or 1 <= side <= MAX_SIDE,
                name,
                side,
                f"must be from 1 to {MAX_SIDE} pixels",
            )
        _require(
            0 <= self.pad_crop <= MAX_SIDE,
            "pad_crop",
            self.pad_crop,
            f"must be from 0 to {MAX_SIDE} pixels",
        )
        _require(self.pca_noise >= 0, "pca_noise", self.pca_noise, "must not be negative")
        _require(all(s > 0 for s in self.std), "std", self.std, "must be positive")

    def _check_combinations(self) -> None:
        given = [
            n
            for n in ("resize", "random_resized_crop", "scale_crop")
            if getattr(self, n) is not None
        ]
        _require(
            len(given) < 2,
            given[-1] if given else "",
            "given",
            f"cannot go with {given[0] if given else ''}",
        )
        crop, shorter, scales = self.center_crop, self.eval_resize, self.scale_crop
        _require(
            self.resize is None or crop is shorter is None,
            "resize",
            self.resize,
            "cannot go with eval_resize and center_crop",
        )
        if shorter is not None:
            _require(
                crop is not None and crop <= shorter,
                "eval_resize",
                shorter,
                f"needs a center_crop that is not larger, found {crop}",
            )
        if scales is not None:
            _require(
                scales[0] <= scales[1],
                "scale_crop",
                scales,
                "must be the smallest and the largest shorter side",
            )
            _require(
                crop is not None and crop <= scales[0],
                "scale_crop",
                scales,
                f"needs a center_crop that is not larger, found {crop}",
            )
        elif crop is not None:
            _require(
                shorter is not None,
                "center_crop",
                crop,
                "needs eval_resize, the shorter side before it",
            )
        if self.per_pixel_mean:
            _require(not self.mean, "per_pixel_mean", True, "takes the place of mean")
            _require(
                not given and crop is None, "per_pixel_mean", True, "needs images at their own size"
            )
        if self.mean and self.std:
            _require(
                len(self.mean) == len(self.std),
                "std",
                self.std,
                f"needs a number per channel, as mean {self.mean}",
            )


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    require(condition, f"augmentation.{name}", value, allowed)
