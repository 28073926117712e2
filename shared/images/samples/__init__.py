"""Photographs that are bundled, for a look at a network without a dataset.

| file | what | by | licence |
| --- | --- | --- | --- |
| astronaut.jpg | Eileen Collins, a portrait | NASA | public domain |
| chelsea.jpg | a cat | Stefan van der Walt | CC0 |
| coffee.jpg | a cup of coffee | Rachel Michetti | CC0 |
| rocket.jpg | a launch at night | SpaceX | public domain |

All are from scikit-image's data, scaled to a shorter side of at most 400 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CLOSE = 0.6  # side of a close crop over the shorter side of the photograph


def sample_pixels(size: int) -> np.ndarray:
    """The photographs as uint8 [16, size, size, 3]: the middle of each, and three close crops."""
    return crops([Path(__file__).parent / f"{name}.jpg" for name in PHOTOGRAPHS], size)


def crops(paths: list[Path], size: int) -> np.ndarray:
    """Four crops of each photograph, uint8 [4 * photographs, size, size, 3].

    Raises `CheckpointError` for a file that is no image.
    """
    from PIL import Image

    from shared.errors import CheckpointError
    from shared.images.photographs import opened, upright

    found = []
    for path in paths:
        with opened(path, CheckpointError) as image:
            picture = upright(image).convert("RGB")
        width, height = picture.size
        side, close = min(width, height), max(1, int(CLOSE * min(width, height)))
        left, top = (width - side) // 2, (height - side) // 2
        for x, y, length in (
            (left, top, side),
            (0, 0, close),
            (width - close, 0, close),
            (width - close, height - close, close),
        ):
            part = picture.crop((x, y, x + length, y + length))
            found.append(np.asarray(part.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(found)
