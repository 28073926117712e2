"""The same bytes for a seed and a step: however resumed, sharded, threaded, and whatever the source
is made of.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest

from shared.datasets import ArraySource, Augmentation, Batch, ImageSource, Pipeline, pipeline
from shared.errors import DatasetError
from tests.datasets import makers

FULL = Augmentation(
    pad_crop=2, flip=True, pca_noise=0.1, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)
)
COUNT, BATCH = 50, 8  # 6 steps an epoch, and 2 examples left over
STEPS = COUNT // BATCH


def made(source: ImageSource | None = None, **changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "batch": BATCH,
        "seed": 3,
        "augmentation": FULL,
        "training": True,
        "epochs": 3,
    }
    return Pipeline(source or makers.array_source(COUNT), **settings | changes)


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.epoch, a.step) == (b.epoch, b.step)
        and a.images.tobytes() == b.images.tobytes()
        and a.labels.tobytes() == b.labels.tobytes()
    )


def all_same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


class Recorded(ImageSource):
    """An array source one by one, that remembers which examples were asked for."""

    def __init__(self, inner: ArraySource):
        self.inner, self.asked = inner, list[int]()
        self.num_classes, self.channels, self.image_shape = (
            inner.num_classes,
            inner.channels,
            inner.image_shape,
        )

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.asked.append(index)
        return self.inner[index]

    @property
    def digest(self) -> str:
        return self.inner.digest


class Numbered(ArraySource):
    """Every image says its number, and its label is its number, too."""

    def __init__(self, count: int):
        numbers = np.arange(count)
        super().__init__(
            np.broadcast_to(numbers[:, None, None, None], (count, 3, 3, 1)).astype(np.uint8),
            numbers,
            count,
        )


def test_batches() -> None:
    batches = list(made())
    assert [batch.step for batch in batches] == list(range(3 * STEPS))
    assert [batch.epoch for batch in batches] == [step // STEPS for step in range(3 * STEPS)]
    for batch in batches:
        assert batch.images.shape == (BATCH, 8, 8, 3)
        assert batch.images.dtype == np.float32
        assert batch.images.flags.c_contiguous
        assert batch.images.flags.writeable
        assert batch.labels.shape == (BATCH,)
        assert batch.labels.dtype == np.int64
    assert len(made()) == 3 * STEPS
    assert made().steps_per_epoch == STEPS


def test_the_bytes_are_these() -> None:
    """A run that resumes with a later version of anything finds its batches again."""
    how = Augmentation(pad_crop=2, flip=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    images = (np.arange(COUNT * 192) * 2654435761 >> 7).astype(np.uint8).reshape(COUNT, 8, 8, 3)
    found = hashlib.sha256()
    for batch in made(ArraySource(images, np.arange(COUNT) % 10, 10), augmentation=how):
        found.update(batch.images.tobytes() + batch.labels.astype("<i8").tobytes())
    assert found.hexdigest() == "38e0a787a0ebd422c0101d7307b9a91e1c6a23eeda4d92a6e95497bbe2c293f6"


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kind", [ArraySource, Recorded])  # all at once, and one by one
def test_threads_change_nothing(workers: int, kind: type) -> None:
    inner = makers.array_source(COUNT)
    source = inner if kind is ArraySource else Recorded(inner)
    assert all_same(list(made(source, workers=workers)), list(made()))
    assert all_same(list(made(source, workers=workers, start_step=5)), list(made())[5:])


def test_threads_end_with_the_iteration() -> None:
    before = threading.active_count()
    batches = iter(made(Recorded(makers.array_source(COUNT)), workers=3, epochs=None))
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_images_are_read_at_the_same_time() -> None:
    """Each of two threads waits until the other has begun. There is no third image, whose thread
    would wait for one that never comes.
    """
    together = threading.Barrier(2, timeout=30)

    class Waiting(Recorded):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            together.wait()
            return super().__getitem__(index)

    two = makers.array_source(2)
    (batch,) = made(Waiting(two), workers=2, batch=2, epochs=1)
    assert all_same([batch], list(made(two, batch=2, epochs=1)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("start", [0, 1, STEPS, STEPS + 1, 3 * STEPS - 1, 3 * STEPS])
def test_resuming(training: bool, start: int) -> None:
    whole = list(made(training=training))
    assert all_same(list(made(training=training, start_step=start)), whole[start:])


def test_resuming_reads_nothing_of_what_lies_before() -> None:
    source = Recorded(makers.array_source(COUNT))
    resumed = made(source, start_step=2 * STEPS + 1)
    first = next(iter(resumed))
    assert len(source.asked) == BATCH
    assert source.asked == resumed.examples_at(2 * STEPS + 1).tolist()
    assert same(first, list(made())[2 * STEPS + 1])


def test_every_iteration_begins_again() -> None:
    one = made(start_step=2)
    assert all_same(list(one), list(one))


def test_without_an_end() -> None:
    endless = made(epochs=None)
    assert all_same(list(islice(endless, 2 * STEPS)), list(made())[: 2 * STEPS])
    with pytest.raises(TypeError):
        len(endless)
    far = next(iter(made(epochs=None, start_step=10**12)))
    assert far.epoch == 10**12 // STEPS


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_shards_are_the_batch_in_parts(count: int) -> None:
    shards = [list(made(shard=(i, count))) for i in range(count)]
    for parts, whole in zip(zip(*shards, strict=True), made(), strict=True):
        assert all(len(part.labels) == BATCH // count for part in parts)
        assert same(
            Batch(
                np.concatenate([p.images for p in parts]),
                np.concatenate([p.labels for p in parts]),
                parts[0].epoch,
                parts[0].step,
            ),
            whole,
        )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_of_an_evaluation_have_every_example_once(count: int) -> None:
    source = Numbered(21)
    shards = [
        list(made(source, training=False, epochs=1, augmentation=Augmentation(), shard=(i, count)))
        for i in range(count)
    ]
    assert {len(batches) for batches in shards} == {3}
    together = [
        np.concatenate([batch.labels for batch in parts]) for parts in zip(*shards, strict=True)
    ]
    assert np.concatenate(together).tolist() == list(range(21))
    assert [len(labels) for labels in together] == [8, 8, 5]


def test_each_epoch_has_every_example_once_in_another_order() -> None:
    batches = list(made(Numbered(48), augmentation=Augmentation(), epochs=4))
    epochs = [np.concatenate([b.labels for b in batches if b.epoch == epoch]) for epoch in range(4)]
    for labels in epochs:
        assert sorted(labels.tolist()) == list(range(48))
    assert len({labels.tobytes() for labels in epochs}) == 4
    for batch in batches:  # images and labels stay together
        np.testing.assert_array_equal((batch.images[:, 1, 1, 0] * 255).round(), batch.labels)


def test_the_examples_left_out_are_others_in_every_epoch() -> None:
    batches = list(made(Numbered(COUNT), augmentation=Augmentation(), epochs=6))
    left = {
        tuple(set(range(COUNT)) - {int(n) for b in batches if b.epoch == e for n in b.labels})
        for e in range(6)
    }
    assert all(len(numbers) == COUNT % BATCH for numbers in left)
    assert len(left) > 3


def test_the_remainder_can_be_kept_or_dropped() -> None:
    kept = list(made(drop_remainder=False, epochs=2))
    assert [len(batch.labels) for batch in kept] == ([BATCH] * STEPS + [COUNT % BATCH]) * 2
    dropped = list(made(training=False, drop_remainder=True, epochs=1))
    assert [len(batch.labels) for batch in dropped] == [BATCH] * STEPS


def test_seeds_and_epochs_augment_differently_and_batches_do_not() -> None:
    """The image of an example depends on seed, epoch and example, not on where in which batch it
    comes.
    """

    def by_example(**changes: Any) -> dict[tuple[int, int], bytes]:
        source = makers.array_source(48)
        one = made(source, **changes)
        return {
            (batch.epoch, int(example)): image.tobytes()
            for batch in one
            for example, image in zip(one.examples_at(batch.step), batch.images, strict=True)
        }

    usual = by_example()
    assert len(usual) == 3 * 48
    assert by_example(batch=6) == usual
    assert len(set(usual.values())) == len(usual)
    other = by_example(seed=4)
    assert sum(other[key] == usual[key] for key in usual) == 0


def test_evaluation_is_plain_and_in_order() -> None:
    source = makers.array_source(COUNT)
    batches = list(made(source, training=False, epochs=None))
    assert [len(batch.labels) for batch in batches] == [8] * 6 + [2]
    images = np.concatenate([batch.images for batch in batches])
    mean, std = np.float32(FULL.mean), np.float32(FULL.std)
    np.testing.assert_array_equal(
        images, (source.images.astype(np.float32) / np.float32(255) - mean) / std
    )
    np.testing.assert_array_equal(
        np.concatenate([batch.labels for batch in batches]), source.labels
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 6, 1)])
@pytest.mark.parametrize("resize", [None, 12])
def test_arrays_and_examples_one_by_one_give_the_same(
    training: bool, shape: tuple, resize: int | None
) -> None:
    source = makers.array_source(20, shape)
    how = Augmentation(resize=resize, pad_crop=3, flip=True, mean=(0.5,) * shape[2])
    settings: dict[str, Any] = {"augmentation": how, "training": training}
    assert all_same(list(made(source, **settings)), list(made(Recorded(source), **settings)))


def test_per_pixel_mean() -> None:
    source = makers.array_source(COUNT)
    how = Augmentation(per_pixel_mean=True)
    images = np.concatenate(
        [b.images for b in made(source, training=False, epochs=1, augmentation=how)]
    )
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=1e-6)
    test = ArraySource(source.images[:9], source.labels[:9], 10, training=lambda: source)
    found = np.concatenate(
        [b.images for b in made(test, training=False, epochs=1, augmentation=how)]
    )
    np.testing.assert_array_equal(found, images[:9])


@pytest.mark.parametrize(
    ("how", "shapes"),
    [
        (Augmentation(random_resized_crop=5), ((5, 5, 3), (8, 8, 3))),
        (Augmentation(random_resized_crop=5, eval_resize=7, center_crop=6), ((5, 5, 3), (6, 6, 3))),
        (Augmentation(scale_crop=(9, 12), center_crop=7), ((7, 7, 3), (8, 8, 3))),
        (Augmentation(resize=4), ((4, 4, 3), (4, 4, 3))),
    ],
)
def test_sizes(how: Augmentation, shapes: tuple[tuple[int, int, int], ...]) -> None:
    for training, shape in zip((True, False), shapes, strict=True):
        one = made(augmentation=how, training=training, epochs=1)
        assert one.image_shape == shape
        assert {batch.images.shape[1:] for batch in one} == {shape}
        assert all_same(
            list(one), list(made(augmentation=how, training=training, epochs=1, workers=2))
        )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 0}, "batch = 0: must be at least 1"),
        ({"batch": COUNT + 1}, "the split has only 50 examples"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 1 << 64}, "seed = "),
        ({"epochs": 0}, "epochs = 0"),
        ({"shard": (2, 2)}, "shard = (2, 2)"),
        ({"shard": (0, 3)}, "batch = 8: must be a multiple of the 3 shards"),
        ({"start_step": -1}, "start_step = -1"),
        ({"start_step": 3 * STEPS + 1}, "expected at most the 18 steps there are"),
        ({"workers": -1}, "workers = -1"),
        (
            {"augmentation": Augmentation(mean=(0.5,))},
            "mean = (0.5,): needs a number for each of the 3 channels",
        ),
        (
            {"augmentation": Augmentation(std=(0.5,))},
            "std = (0.5,): needs a number for each of the 3 channels",
        ),
    ],
)
def test_refusals(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DatasetError) as error:
        made(**changes)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_colour_noise_needs_colours() -> None:
    with pytest.raises(DatasetError, match="needs images of 3 channels, found 1"):
        made(makers.array_source(COUNT, (8, 8, 1)), augmentation=Augmentation(pca_noise=0.1))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_source_comes_as_it_is(workers: int) -> None:
    class Broken(Recorded):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            raise DatasetError(f"example {index} is damaged")

    with pytest.raises(DatasetError, match=r"^example \d+ is damaged$"):
        next(iter(made(Broken(makers.array_source(COUNT)), workers=workers)))


def test_importing_takes_numpy_alone() -> None:
    heavy = ("jax", "PIL", "torch", "tensorflow", "keras", "flax", "rich", "urllib.request", "h5py")
    code = f"import sys, shared.datasets; print(*(m for m in {heavy} if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_threads_are_ahead_by_no_more_than_they_say() -> None:
    source = Recorded(makers.array_source(COUNT))
    batches = iter(made(source, workers=2, epochs=None))
    for _ in range(3):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(source.asked) <= (3 + pipeline.PREFETCHED) * BATCH
