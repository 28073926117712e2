"""What happens to a whole batch at once: random crops and flips of bytes, and their way to
normalised floats.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from shared.datasets import draws

# Principal components of the RGB values, in [0, 1], of ImageNet's training split, by rows of R, G
# and B, and the square roots of their variances: facebookarchive/fb.resnet.torch,
# datasets/imagenet.lua.
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])


def random_crop_and_flip(
    images: np.ndarray, pad: int, flip: bool, seed: int, epoch: int, examples: np.ndarray
) -> np.ndarray:
    """Each image [n, height, width, channels] moved by up to `pad` pixels, with black coming in;
    perhaps mirrored.
    """
    if not pad and not flip:
        return images
    words = draws.draw(seed, epoch, examples, draws.CROP)
    if pad:
        images = crop_padded(
            images, pad, draws.below(words[0], 2 * pad + 1), draws.below(words[1], 2 * pad + 1)
        )
    return mirror(images, words[2] >> np.uint64(31) != 0) if flip else images


def crop_padded(images: np.ndarray, pad: int, tops: np.ndarray, lefts: np.ndarray) -> np.ndarray:
    """Pad by black pixels, and take the window of the old size that begins at (top, left) [n]."""
    n, height, width, channels = images.shape
    padded = np.zeros((n, height + 2 * pad, (width + 2 * pad) * channels), np.uint8)
    padded[:, pad : pad + height, pad * channels : (pad + width) * channels] = images.reshape(
        n, height, -1
    )
    image, row, byte = padded.strides
    # Every window of every image, without a copy: indexing it copies runs of whole rows.
    windows = as_strided(
        padded,
        (n, 2 * pad + 1, 2 * pad + 1, height, width * channels),
        (image, row, channels * byte, row, byte),
        writeable=False,
    )
    return windows[np.arange(n), tops, lefts].reshape(images.shape)


def mirror(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The images of `which`, bool [n], left to right."""
    flipped = images.copy()
    chosen = images[which]
    mirrored = np.empty_like(chosen)
    for channel in range(
        images.shape[3]
    ):  # NumPy copies runs of single bytes six times as fast as triples
        mirrored[..., channel] = chosen[:, :, ::-1, channel]
    flipped[which] = mirrored
    return flipped


def pca_shifts(std: float, seed: int, epoch: int, examples: np.ndarray) -> np.ndarray:
    """What is added to the red, green and blue of each image, float32 [n, 3]: Krizhevsky et al.
    2012, 4.1.
    """
    words = draws.draw(seed, epoch, examples, draws.NOISE)
    alphas = (
        np.stack([*draws.normal(words[0], words[1]), draws.normal(words[2], words[3])[0]], axis=1)
        * std
    )
    return ((alphas * PCA_VALUES) @ PCA_VECTORS.T).astype(np.float32)


def normalise(
    images: np.ndarray,
    mean: np.ndarray | None,
    std: np.ndarray | None,
    shifts: np.ndarray | None = None,
) -> np.ndarray:
    """float32 of the same shape: `(x / 255 + shift - mean) / std`, each step rounded, as in
    torchvision's transforms.

    `mean` and `std` are float32, per channel or per pixel; `shifts` per image and channel [n,
    channels].
    """
    n, height, width, channels = images.shape
    # Rows instead of channels innermost: NumPy is slow at long arrays of short vectors.
    found = images.reshape(n, height, width * channels).astype(np.float32)
    found /= np.float32(255)
    if shifts is not None:
        found += np.tile(shifts, (1, width)).reshape(n, 1, width * channels)
    if mean is not None:
        found -= _rows(mean, height, width, channels)
    if std is not None:
        found /= _rows(std, height, width, channels)
    return found.reshape(images.shape)


def _rows(values: np.ndarray, height: int, width: int, channels: int) -> np.ndarray:
    """Per channel, as one row; per pixel, as [height, row]."""
    return np.tile(values, width) if values.ndim == 1 else values.reshape(height, width * channels)
