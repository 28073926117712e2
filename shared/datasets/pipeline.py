"""`Pipeline`: batches of a source, in an order and with an augmentation that depend on the seed and
the step alone.

Every batch is a function of its step, `Pipeline.batch_at`, so resuming is starting at another step,
and the number of threads changes no byte. NumPy and Pillow let other threads work while they copy,
decode and resize.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from shared.datasets import draws, photographs
from shared.datasets.batches import normalise, pca_shifts, random_crop_and_flip
from shared.datasets.resizing import resize_batch
from shared.datasets.sources import ArraySource, ImageSource
from shared.errors import DatasetError
from shared.machine import processors
from shared.training.augmentation import Augmentation

PREFETCHED = 2  # batches that are made ahead of the one in use


@dataclass(frozen=True)
class Batch:
    """What a step is fed."""

    images: np.ndarray  # float32 [n, height, width, channels], C-contiguous
    labels: np.ndarray  # int64 [n]
    epoch: int  # from 0
    step: int  # from 0, over all epochs


def default_workers(source: ImageSource) -> int:
    """Threads for `Pipeline`: the cores that this process may use but one where images are decoded
    from files, 0 where they are in memory.
    """
    if isinstance(source, ArraySource):
        return 0
    return max(1, processors() - 1)


class Pipeline:
    """Batches of `source`, by iterating; each iteration begins at `start_step`.

    Training shuffles in every epoch, augments, never ends unless `epochs` are given, and
    leaves out what does not fill the last batch. Evaluation gives every example once, in order, the
    last batch being short.

    Shard (i, n) gets the i-th of n contiguous parts of every batch: the parts in order are the
    unsharded batch. In training `batch`, which counts all shards, must be a multiple of n. Of a
    short last batch the first shards get one more, and some may get none: every shard has the same
    number of steps.

    With 0 `workers` each batch is made when it is asked for. Otherwise a thread makes batches
    ahead, and has so many others decode and resize the images of each. Raises `DatasetError` for
    what cannot be done.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        batch: int,
        seed: int,
        augmentation: Augmentation,
        training: bool,
        epochs: int | None = None,
        shard: tuple[int, int] = (0, 1),
        start_step: int = 0,
        drop_remainder: bool | None = None,
        workers: int = 0,
    ):
        self.source, self.augmentation, self.training = source, augmentation, training
        self.batch, self.seed, self.shard = batch, seed, (shard[0], shard[1])
        self.start_step, self.workers = start_step, workers
        self.epochs = epochs if training or epochs is not None else 1
        self.drop_remainder = training if drop_remainder is None else drop_remainder
        self._check_numbers()
        whole, rest = divmod(len(source), batch)
        self.steps_per_epoch = whole if self.drop_remainder or not rest else whole + 1
        if not self.steps_per_epoch:
            raise DatasetError(
                f"batch = {batch}: the split has only {len(source)} examples, and what does not "
                "fill a "
                "batch is left out; take a smaller batch"
            )
        self.total_steps = None if self.epochs is None else self.epochs * self.steps_per_epoch
        if self.total_steps is not None and start_step > self.total_steps:
            raise DatasetError(
                f"start_step = {start_step}: expected at most the {self.total_steps} steps there "
                "are"
            )
        self._one_by_one = self._check_geometry()
        self._mean, self._std = self._statistics()
        # Two epochs at a time, as threads may be at work on both sides of the boundary.
        self._order = functools.lru_cache(maxsize=2)(
            functools.partial(draws.permutation, seed, count=len(source))
        )

    def __len__(self) -> int:
        """All steps of all epochs, those before `start_step` too."""
        if self.total_steps is None:
            raise TypeError("a pipeline without epochs has no end")
        return self.total_steps

    def __iter__(self) -> Iterator[Batch]:
        count = itertools.count(self.start_step)
        steps = (
            count if self.total_steps is None else iter(range(self.start_step, self.total_steps))
        )
        if not self.workers:
            yield from map(self.batch_at, steps)
            return
        with ThreadPoolExecutor(self.workers) as images, ThreadPoolExecutor(1) as batches:
            ahead: deque[Future[Batch]] = deque()
            try:
                for step in steps:
                    ahead.append(batches.submit(self._make, step, images.map))
                    if len(ahead) > PREFETCHED:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:  # do not wait for batches that are not wanted any more
                batches.shutdown(wait=False, cancel_futures=True)
                images.shutdown(wait=False, cancel_futures=True)

    def examples_at(self, step: int) -> np.ndarray:
        """The numbers of the examples that this shard is fed at a step, int64 [n]."""
        epoch, place = divmod(step, self.steps_per_epoch)
        first, last = place * self.batch, min((place + 1) * self.batch, len(self.source))
        index, count = self.shard
        size, more = divmod(last - first, count)
        start = first + index * size + min(index, more)
        stop = start + size + (index < more)
        return self._order(epoch)[start:stop] if self.training else np.arange(start, stop)

    def batch_at(self, step: int) -> Batch:
        """The batch of a step, whatever came before it."""
        return self._make(step, map)

    def _make(self, step: int, each: Callable[..., Iterator[None]]) -> Batch:
        """The batch of a step; `each` is `map`, or that of a pool of threads."""
        epoch, how = step // self.steps_per_epoch, self.augmentation
        examples = self.examples_at(step)
        pixels, labels = self._pixels(examples, epoch, each)
        shifts = None
        if self.training:
            pixels = random_crop_and_flip(
                pixels, how.pad_crop, how.flip, self.seed, epoch, examples
            )
            shifts = (
                pca_shifts(how.pca_noise, self.seed, epoch, examples) if how.pca_noise else None
            )
        return Batch(normalise(pixels, self._mean, self._std, shifts), labels, epoch, step)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """height, width and channels of the images of every batch."""
        how = self.augmentation
        if self.training and how.random_resized_crop is not None:
            side: int | None = how.random_resized_crop
        elif (self.training and how.scale_crop is not None) or (
            not self.training and how.eval_resize is not None
        ):
            side = how.center_crop
        else:
            side = how.resize
        if side is not None:
            return side, side, self.source.channels
        if self.source.image_shape is None:
            raise DatasetError(_NO_SIZE[self.training])
        return self.source.image_shape

    def _pixels(
        self, examples: np.ndarray, epoch: int, each: Callable[..., Iterator[None]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images at their size, uint8 [n, height, width, channels], and labels."""
        if isinstance(self.source, ArraySource) and not self._one_by_one:
            images = self.source.images[examples]
            if self.augmentation.resize is not None:
                images = resize_batch(images, self.augmentation.resize)
            return images, self.source.labels[examples]
        images = np.empty((len(examples), *self.image_shape), np.uint8)
        labels = np.empty(len(examples), np.int64)

        def read(i: int, example: int) -> None:
            image, labels[i] = self.source[example]
            if self.training:
                images[i] = photographs.for_training(
                    image, self.augmentation, self.seed, epoch, example
                )
            else:
                images[i] = photographs.for_evaluation(image, self.augmentation)

        for _ in each(read, range(len(examples)), examples.tolist()):
            pass  # an error of a thread is raised here
        return images, labels

    def _check_numbers(self) -> None:
        index, count = self.shard
        _require(self.batch >= 1, "batch", self.batch, "must be at least 1")
        _require(0 <= self.seed < 1 << 64, "seed", self.seed, "must be from 0 to 2**64 - 1")
        _require(
            self.epochs is None or self.epochs >= 1, "epochs", self.epochs, "must be at least 1"
        )
        _require(0 <= index < count, "shard", self.shard, "must be (i, n) with i from 0 to n - 1")
        _require(self.start_step >= 0, "start_step", self.start_step, "must not be negative")
        _require(self.workers >= 0, "workers", self.workers, "must not be negative")
        if self.training:
            _require(
                self.batch % count == 0,
                "batch",
                self.batch,
                f"must be a multiple of the {count} shards",
            )

    def _check_geometry(self) -> bool:
        """Whether images have to be brought to their size one by one; raises where they would have
        none.
        """
        how = self.augmentation
        _ = self.image_shape
        if how.pca_noise and self.source.channels != 3:
            raise DatasetError(
                f"pca_noise = {how.pca_noise}: needs images of 3 channels, found "
                f"{self.source.channels}"
            )
        shape = self.source.image_shape
        if shape is None or (how.resize is not None and shape[0] != shape[1]):
            return True
        if self.training:
            return how.random_resized_crop is not None or how.scale_crop is not None
        return how.eval_resize is not None

    def _statistics(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        how = self.augmentation
        for name, values in (("mean", how.mean), ("std", how.std)):
            _require(
                len(values) in (0, self.source.channels),
                name,
                values,
                f"needs a number for each of the {self.source.channels} channels",
            )
        mean = (
            self.source.mean_image()
            if how.per_pixel_mean
            else np.array(how.mean, np.float32)
            if how.mean
            else None
        )
        return mean, np.array(how.std, np.float32) if how.std else None


_NO_SIZE = {
    True: "the images have sizes of their own: training needs random_resized_crop, scale_crop or "
    "resize",
    False: "the images have sizes of their own: evaluation needs resize, or eval_resize and "
    "center_crop",
}


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise DatasetError(f"{name} = {value}: {allowed}")
