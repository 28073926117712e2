"""`Augmentation`: which fields go together, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from shared.errors import SpecError
from shared.training.augmentation import Augmentation


@pytest.mark.parametrize(
    "how",
    [
        Augmentation(),
        Augmentation(resize=96, pad_crop=4, flip=True, mean=(0.2860,), std=(0.3530,)),
        Augmentation(
            scale_crop=(256, 480), center_crop=224, eval_resize=256, flip=True, pca_noise=0.1
        ),
        Augmentation(pad_crop=4, flip=True, per_pixel_mean=True),
    ],
)
def test_json(how: Augmentation) -> None:
    assert Augmentation.from_json(how.to_json()) == how
    assert Augmentation.from_dict(json.loads(json.dumps(dataclasses.asdict(how)))) == how
    assert hash(how) == hash(Augmentation.from_json(how.to_json()))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"resize": 0}, "augmentation.resize = 0: must be from 1 to 8192 pixels"),
        ({"resize": 96.0}, "augmentation.resize: expected int, found 96.0"),
        ({"resize": True}, "expected int, found True"),
        ({"flip": 1}, "augmentation.flip: expected bool, found 1"),
        ({"pad_crop": -1}, "augmentation.pad_crop = -1: must be from 0"),
        ({"pca_noise": -0.1}, "must not be negative"),
        ({"pca_noise": float("nan")}, "finite"),
        ({"std": (0.1, 0.0)}, "augmentation.std = (0.1, 0.0): must be positive"),
        ({"mean": (0.1,), "std": (0.1, 0.2)}, "needs a number per channel"),
        (
            {"resize": 96, "random_resized_crop": 96},
            "augmentation.random_resized_crop = given: cannot go with resize",
        ),
        (
            {"random_resized_crop": 96, "scale_crop": (96, 96), "center_crop": 96},
            "cannot go with random_resized_crop",
        ),
        (
            {"resize": 96, "eval_resize": 96, "center_crop": 90},
            "cannot go with eval_resize and center_crop",
        ),
        ({"eval_resize": 96}, "needs a center_crop that is not larger, found None"),
        (
            {"eval_resize": 96, "center_crop": 97},
            "needs a center_crop that is not larger, found 97",
        ),
        ({"center_crop": 97}, "needs eval_resize"),
        ({"scale_crop": (256, 480)}, "needs a center_crop that is not larger, found None"),
        (
            {"scale_crop": (256, 480), "center_crop": 257},
            "needs a center_crop that is not larger, found 257",
        ),
        ({"scale_crop": (480, 256), "center_crop": 224}, "must be the smallest and the largest"),
        ({"scale_crop": (480,)}, "expected 2 values"),
        ({"per_pixel_mean": True, "mean": (0.5,)}, "takes the place of mean"),
        ({"per_pixel_mean": True, "resize": 96}, "needs images at their own size"),
    ],
)
def test_refusals(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Augmentation(**fields)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_fields() -> None:
    with pytest.raises(SpecError, match=r"no field 'padcrop' \(nearest: pad_crop"):
        Augmentation.from_dict({"padcrop": 4})
