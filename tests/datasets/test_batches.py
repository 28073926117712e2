"""What happens to images, against torchvision's transforms and against plain loops over the
examples.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from shared.datasets import Augmentation, batches, draws, photographs
from shared.datasets.resizing import resize_batch
from tests.datasets import makers
from tests.peers import import_torchvision

EXAMPLES = np.arange(40)


def as_pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def as_array(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


@pytest.fixture(scope="module")
def transforms() -> ModuleType:
    import_torchvision()
    return importlib.import_module("torchvision.transforms")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("old", "side"),
    [
        (28, 96),
        (28, 32),
        (32, 224),
        (32, 20),
        (40, 33),
        (33, 40),
        (40, 7),
        (9, 1),
        (1, 5),
        (28, 28),
        (100, 3),
    ],
)
def test_resize_is_torchvision_s_byte_for_byte(
    transforms: ModuleType, old: int, side: int, channels: int
) -> None:
    images, _ = makers.pictures(40, (old, old, channels))
    images[0] = 255
    images[1] = 0
    resize = transforms.Resize((side, side))
    expected = np.stack([as_array(resize(as_pil(image))) for image in images])
    found = resize_batch(images, side)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    one_by_one = [
        photographs.for_training(image, Augmentation(resize=side), 0, 0, 0) for image in images
    ]
    np.testing.assert_array_equal(one_by_one, expected)


@pytest.mark.parametrize("shape", [(8, 9, 1), (7, 6, 3)])
@pytest.mark.parametrize("pad", [0, 1, 4, 10])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_and_flips_against_a_loop(shape: tuple[int, int, int], pad: int, flip: bool) -> None:
    images, _ = makers.pictures(len(EXAMPLES), shape)
    before = images.copy()
    found = batches.random_crop_and_flip(images, pad, flip, 5, 3, EXAMPLES)
    words = draws.draw(5, 3, EXAMPLES, draws.CROP)
    height, width = shape[:2]
    for i in range(len(EXAMPLES)):
        padded = np.pad(images[i], ((pad, pad), (pad, pad), (0, 0)))
        top, left = (int(draws.below(word, 2 * pad + 1)[i]) if pad else 0 for word in words[:2])
        crop = padded[top : top + height, left : left + width]
        np.testing.assert_array_equal(
            found[i], crop[:, ::-1] if flip and words[2][i] >= 1 << 31 else crop
        )
    np.testing.assert_array_equal(images, before)


def test_every_crop_comes_and_half_are_mirrored() -> None:
    count, pad = 10000, 2
    spots = np.zeros((count, 5, 5, 1), np.uint8)
    spots[:, 2, 2] = 1
    moved = batches.random_crop_and_flip(spots, pad, False, 0, 0, np.arange(count))
    counts = moved.sum(axis=0)[..., 0]
    assert counts.sum() == count
    assert np.abs(counts - count / 25).max() < 5 * np.sqrt(count / 25)
    sides = np.zeros((count, 1, 2, 1), np.uint8)
    sides[:, 0, 0] = 1
    kept = batches.random_crop_and_flip(sides, 0, True, 0, 0, np.arange(count))[:, 0, 0].sum()
    assert abs(kept - count / 2) < 5 * np.sqrt(count / 4)


def test_padding_is_black(transforms: ModuleType) -> None:
    image = np.full((1, 4, 4, 3), 200, np.uint8)
    found = batches.crop_padded(image, 2, np.array([0]), np.array([1]))[0]
    padded = transforms.functional.pad(Image.fromarray(image[0]), 2)
    np.testing.assert_array_equal(found, as_array(transforms.functional.crop(padded, 0, 1, 4, 4)))
    assert found[:2].max() == 0


@pytest.mark.parametrize(
    ("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.2860,), (0.3530,))]
)
def test_normalise_is_torchvision_s_byte_for_byte(
    transforms: ModuleType, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    images, _ = makers.pictures(4, (9, 16, len(mean)))
    images[0].flat[:256] = range(min(256, images[0].size)) if images[0].size < 256 else range(256)
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = np.stack([chain(as_pil(image)).numpy().transpose(1, 2, 0) for image in images])
    found = batches.normalise(images, np.array(mean, np.float32), np.array(std, np.float32))
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_normalise_by_pixel_and_with_shifts() -> None:
    images, _ = makers.pictures(3, (4, 5, 3))
    mean = np.random.default_rng(0).random((4, 5, 3), np.float32)
    shifts = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    std = np.array([0.2, 0.3, 0.4], np.float32)
    found = batches.normalise(images, mean, std, shifts)
    expected = (images / 255.0 + shifts[:, None, None, :] - mean) / std
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        batches.normalise(images, None, None), images.astype(np.float32) / np.float32(255)
    )


def test_pca_shifts_vary_along_the_principal_components() -> None:
    """Their covariance is V diag(0.1 λ)² V^T, and each is drawn by itself."""
    found = batches.pca_shifts(0.1, 0, 0, np.arange(200000)).astype(np.float64)
    expected = (
        batches.PCA_VECTORS @ np.diag((0.1 * batches.PCA_VALUES) ** 2) @ batches.PCA_VECTORS.T
    )
    np.testing.assert_allclose(np.cov(found.T), expected, rtol=0.02)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=2e-4)
    np.testing.assert_allclose(batches.PCA_VECTORS @ batches.PCA_VECTORS.T, np.eye(3), atol=2e-4)


@pytest.mark.parametrize("size", [(50, 70, 3), (70, 50, 3), (33, 33, 1), (24, 300, 3)])
def test_evaluation_is_torchvision_s_byte_for_byte(
    transforms: ModuleType, size: tuple[int, int, int]
) -> None:
    image = makers.pictures(1, size)[0][0]
    for eval_resize, crop in ((32, 28), (64, 57), (40, 40)):
        chain = transforms.Compose([transforms.Resize(eval_resize), transforms.CenterCrop(crop)])
        found = photographs.for_evaluation(
            image, Augmentation(eval_resize=eval_resize, center_crop=crop)
        )
        np.testing.assert_array_equal(found, as_array(chain(as_pil(image))))


def test_scale_crops(transforms: ModuleType) -> None:
    """Each is somewhere in the image at one of the scales; and all scales, and all edges, come."""
    image = makers.pictures(1, (12, 16, 3))[0][0]
    how = Augmentation(scale_crop=(10, 12), center_crop=8)
    scaled = {side: as_array(transforms.Resize(side)(as_pil(image))) for side in (10, 11, 12)}
    places = {
        full[y : y + 8, x : x + 8].tobytes(): (side, y, x)
        for side, full in scaled.items()
        for y in range(full.shape[0] - 7)
        for x in range(full.shape[1] - 7)
    }
    found = [places[photographs.for_training(image, how, 0, 0, i).tobytes()] for i in range(600)]
    assert {side for side, _, _ in found} == {10, 11, 12}
    assert {y for side, y, _ in found if side == 12} == set(range(5))
    assert {x for side, _, x in found if side == 12} == set(range(9))
    assert len({(side, y, x) for side, y, x in found}) > 0.95 * len(places)


def test_inception_crops(transforms: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boxes have the areas and ratios that torchvision's have; what is cut out is resized as
    there.
    """
    image = makers.pictures(1, (60, 80, 3))[0][0]
    how = Augmentation(random_resized_crop=24)
    boxes = [photographs._inception_box(image.shape, 0, 0, i) for i in range(500)]
    for i in range(5):
        left, top, width, height = boxes[i]
        expected = transforms.functional.resized_crop(
            as_pil(image), top, left, height, width, [24, 24]
        )
        np.testing.assert_array_equal(
            photographs.for_training(image, how, 0, 0, i), as_array(expected)
        )
    left, top, width, height = np.array(boxes).T
    assert left.min() == 0
    assert top.min() == 0
    assert (left + width).max() == 80
    assert (top + height).max() == 60
    importlib.import_module("torch").manual_seed(0)
    peer = transforms.RandomResizedCrop
    theirs = np.array(
        [peer.get_params(as_pil(image), (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(2000)]
    )
    for ours, other in (
        (width * height / 4800, theirs[:, 2] * theirs[:, 3] / 4800),
        (np.log(width / height), np.log(theirs[:, 3] / theirs[:, 2])),
        (left / 80, theirs[:, 1] / 80),
        (top / 60, theirs[:, 0] / 60),
    ):
        np.testing.assert_allclose(
            np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(other, [0.1, 0.5, 0.9]), atol=0.06
        )


@pytest.mark.parametrize("size", [(10, 1000, 3), (1000, 10, 3)])
def test_inception_crops_of_strips(transforms: ModuleType, size: tuple[int, int, int]) -> None:
    """No attempt fits: both take the middle."""
    image = np.zeros(size, np.uint8)
    top, left, height, width = transforms.RandomResizedCrop.get_params(
        as_pil(image), (0.08, 1.0), (3 / 4, 4 / 3)
    )
    assert photographs._inception_box(size, 0, 0, 0) == (left, top, width, height)
