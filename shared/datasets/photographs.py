"""Images one by one, with Pillow: files opened, and brought to their size as torchvision's
transforms do it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.datasets import draws
from shared.errors import DatasetError
from shared.images.photographs import opened, upright
from shared.training.augmentation import Augmentation

if TYPE_CHECKING:
    from PIL import Image as PIL

MAX_PIXELS = 89_000_000  # of a file; just below what Pillow warns of
# torchvision.transforms.RandomResizedCrop
_SCALE, _LOG_RATIO, _ATTEMPTS = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3)), 10


def read_photograph(path: Path) -> np.ndarray:
    """RGB, uint8 [height, width, 3]; upright, and without its transparency. Raises
    `DatasetError`.
    """
    with opened(path, DatasetError) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DatasetError(
                f"{path}: {image.width} x {image.height} pixels; expected at most {MAX_PIXELS:,}"
            )
        return np.asarray(upright(image).convert("RGB"))


def for_training(
    image: np.ndarray, how: Augmentation, seed: int, epoch: int, example: int
) -> np.ndarray:
    """The image at the size it is trained at, uint8 [height, width, channels]; what it shows is
    drawn.
    """
    if how.random_resized_crop is not None:
        left, top, width, height = _inception_box(image.shape, seed, epoch, example)
        box = image[top : top + height, left : left + width]
        return _resized(box, how.random_resized_crop, how.random_resized_crop)
    if how.scale_crop is not None and how.center_crop is not None:
        words = draws.draw(seed, epoch, np.array([example]), draws.PLACE)
        smallest, largest = how.scale_crop
        shorter = smallest + int(draws.below(words[0], largest - smallest + 1)[0])
        scaled = _shorter_side(image, shorter)
        crop = how.center_crop
        top, left = (
            int(draws.below(w, n - crop + 1)[0])
            for w, n in zip(words[1:3], scaled.shape[:2], strict=True)
        )
        return scaled[top : top + crop, left : left + crop]
    return image if how.resize is None else _resized(image, how.resize, how.resize)


def for_evaluation(image: np.ndarray, how: Augmentation) -> np.ndarray:
    """The image at the size it is evaluated at, uint8 [height, width, channels]."""
    if how.eval_resize is not None and how.center_crop is not None:
        scaled, crop = _shorter_side(image, how.eval_resize), how.center_crop
        top, left = (round((n - crop) / 2) for n in scaled.shape[:2])  # torchvision's center_crop
        return scaled[top : top + crop, left : left + crop]
    return image if how.resize is None else _resized(image, how.resize, how.resize)


def _inception_box(
    shape: tuple[int, ...], seed: int, epoch: int, example: int
) -> tuple[int, int, int, int]:
    """left, top, width, height: as `torchvision.transforms.RandomResizedCrop.get_params` finds
    them.
    """
    height, width = shape[:2]
    one = np.array([example])
    for attempt in range(_ATTEMPTS):
        words = draws.draw(seed, epoch, one, draws.BOX, attempt)
        area, log_ratio = (float(draws.uniform(word)[0]) for word in words[:2])
        target = width * height * (_SCALE[0] + area * (_SCALE[1] - _SCALE[0]))
        ratio = math.exp(_LOG_RATIO[0] + log_ratio * (_LOG_RATIO[1] - _LOG_RATIO[0]))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = (
                int(draws.below(word, n)[0])
                for word, n in ((words[2], height - h + 1), (words[3], width - w + 1))
            )
            return left, top, w, h
    # None fitted, as in a very long image: the middle of it, at the nearest ratio that is allowed.
    ratio = min(max(width / height, math.exp(_LOG_RATIO[0])), math.exp(_LOG_RATIO[1]))
    w = max(1, min(width, round(height * ratio)))
    h = max(1, min(height, round(width / ratio)))
    return (width - w) // 2, (height - h) // 2, w, h


def _shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """torchvision's `Resize(side)`: the longer side is rounded down."""
    height, width = image.shape[:2]
    longer = int(side * max(height, width) / min(height, width))
    return _resized(image, *((side, longer) if width <= height else (longer, side)))


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    resized = _as_pil(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[2])


def _as_pil(image: np.ndarray) -> PIL.Image:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
