"""Photographs as the networks were trained to see them: resized, cropped, and scaled per weight
set.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared.architecture.preprocessing import PREPROCESSING, preprocess
from shared.architecture.spec import ResNetSpec
from shared.errors import CheckpointError, RosettaError, SpecError

if TYPE_CHECKING:
    from PIL import Image as PIL

# What photographs come in. Other decoders of PIL start programs (EPS) or print remarks of their own
# (TIFF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")

# A longer strip is first cut to its middle, so that resizing the shorter side cannot fill the
# memory.
MAX_ASPECT = 8


# torchvision's V1 weights resize the shorter side to 256 and crop 224.
RESIZE_OVER_CROP = 256 / 224
THUMBNAIL = 64  # pixels; datasets of such images (CIFAR, MNIST) are not cropped


def load_images(
    paths: Sequence[Path],
    spec: ResNetSpec,
    preprocessing: str,
    size: int | None = None,
    resize: int | None = None,
) -> np.ndarray:
    """Photographs as float64 [batch, size, size, channels], preprocessed; see `load_pixels`."""
    pixels = load_pixels(paths, spec, size, resize)
    return preprocess(pixels, PREPROCESSING[preprocessing], spec.in_channels)


def load_pixels(
    paths: Sequence[Path], spec: ResNetSpec, size: int | None = None, resize: int | None = None
) -> np.ndarray:
    """Photographs as RGB bytes [batch, size, size, 3]; three times the same for one channel.

    The shorter side is resized (bilinear, antialiased) to `resize`, or to 256/224 of `size`, then
    the middle is cropped. Networks of less than 64 pixels get the shorter side at `size`: such
    images are taken whole. Transparency is ignored, as torchvision's loader does. Networks of one
    input channel get the grey image (ITU-R 601 luma). Raises `CheckpointError` for a file that is
    no image, or one of more pixels than PIL takes for safe (179 million), `SpecError` for a network
    that takes neither 1 nor 3 channels.
    """
    if spec.in_channels not in (1, 3):
        raise SpecError(
            f"in_channels = {spec.in_channels}: a photograph has 3 channels, or 1 as a grey image"
        )
    side = size or spec.image_size
    shorter = resize or (side if spec.image_size < THUMBNAIL else round(side * RESIZE_OVER_CROP))
    if shorter < side:
        raise SpecError(
            f"resize = {shorter}: must be at least the {side} pixels that are cropped from it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about what it reads all the same
        return np.stack([_open(path, side, shorter, spec.in_channels) for path in paths])


def _open(path: Path, side: int, shorter: int, channels: int) -> np.ndarray:
    """The middle of the photograph, RGB bytes [side, side, 3]; three times the same for one
    channel.
    """
    from PIL import Image

    with opened(path, CheckpointError) as image:
        photograph = upright(image)
        longest = MAX_ASPECT * min(photograph.size)
        left, top = (max(0, (n - longest) // 2) for n in photograph.size)
        photograph = photograph.crop(
            (
                left,
                top,
                left + min(photograph.width, longest),
                top + min(photograph.height, longest),
            )
        )
        photograph = photograph.convert("RGB")
        if channels == 1:
            photograph = photograph.convert("L").convert("RGB")
    scale = shorter / min(photograph.size)
    width, height = (max(shorter, round(n * scale)) for n in photograph.size)
    resized = photograph.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))


@contextmanager
def opened(path: Path, refusal: type[RosettaError]) -> Iterator[PIL.Image]:
    """An image file to decode; whatever goes wrong with that, inside of the block too, is a
    `refusal` of one line.

    Pillow's warnings are left to the caller: to silence them here would not be safe in threads.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            yield image
    except RosettaError:
        raise
    except UnidentifiedImageError:
        raise refusal(
            f"{path}: not an image that can be read; expected {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise refusal(f"{path}: more pixels than a photograph has") from None
    except OSError as error:
        raise refusal(f"{path}: cannot be read as an image ({error.strerror or error})") from None
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything for a damaged file
        raise refusal(f"{path}: a damaged image ({type(error).__name__}: {error})") from None


def upright(image: PIL.Image) -> PIL.Image:
    """The decoded image, turned as its EXIF says, in 8 bits a channel."""
    from PIL import Image, ImageOps

    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16 bits a pixel; `convert` alone would clip them at 255
        turned = Image.fromarray((np.asarray(turned) / 257).round().clip(0, 255).astype(np.uint8))
    return turned
