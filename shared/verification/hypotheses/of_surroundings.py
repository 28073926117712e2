"""Mistakes around the network: its images, what is done to its output, its mode, its precision."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from shared.architecture.plan import Plan
from shared.architecture.preprocessing import ONES, PREPROCESSING, ZEROS, Preprocessing
from shared.architecture.spec import ResNetSpec
from shared.training.config import dropout_masks
from shared.verification.hypotheses.hypothesis import Array, Hypothesis, Port

PRECISIONS = ("float32", "TF32", "bfloat16", "float16")


def of_surroundings(spec: ResNetSpec, prepared: str | None = None) -> Iterator[Hypothesis]:
    """Every mistake around a network. `prepared` is the preprocessing that the images have had, a
    key of `PREPROCESSING`, where it is known.
    """
    yield from _of_images(spec)
    yield from _of_preprocessing(spec, prepared)
    yield from _of_outputs(spec)
    yield from _of_mode(spec)


def _image_change(
    name: str, what: str, change: Callable[[Array], Array], rank: int = 0, **more: bool
) -> Hypothesis:
    def apply(port: Port) -> Port | None:
        images = change(port.images)
        if images.shape[0] != port.images.shape[0] or (
            images.shape == port.images.shape and np.array_equal(images, port.images)
        ):
            return None
        return dataclasses.replace(port, images=np.ascontiguousarray(images, port.images.dtype))

    return Hypothesis("surroundings", name, what, apply, rank=rank, **more)  # type: ignore[arg-type]


def _of_images(spec: ResNetSpec) -> Iterator[Hypothesis]:
    if spec.in_channels > 1:
        yield _image_change(
            "BGR", "the images' channels are in reverse order (BGR for RGB)", lambda x: x[..., ::-1]
        )
        yield _image_change(
            "channels-first read as channels-last",
            "images [N, C, H, W] are read as [N, H, W, C] without a transposition",
            lambda x: np.ascontiguousarray(x.transpose(0, 3, 1, 2)).reshape(x.shape),
        )
        yield _image_change(
            "channels-last read as channels-first",
            "images [N, H, W, C] are read as [N, C, H, W] without a transposition",
            lambda x: x.reshape(len(x), x.shape[3], *x.shape[1:3]).transpose(0, 2, 3, 1),
        )
    yield _image_change(
        "height and width exchanged",
        "the images' height and width are exchanged",
        lambda x: x.swapaxes(1, 2),
    )
    yield _image_change(
        "mirrored", "the images are mirrored left to right", lambda x: x[:, :, ::-1]
    )
    yield _image_change("upside down", "the images are upside down", lambda x: x[:, ::-1])
    for axis, name in ((1, "down"), (2, "to the right")):
        for step in (1, -1):
            way = name if step == 1 else {"down": "up", "to the right": "to the left"}[name]
            yield _image_change(
                f"shifted {way}",
                f"the images are cropped one pixel further {way}",
                functools.partial(_shifted, axis=axis, step=step),
                1,
            )
    yield _image_change(
        "cropped", "the images are cropped to their middle 7/8 and padded with zeros", _cropped, 1
    )
    for side in dict.fromkeys((spec.image_size, 224, 256, 32)):
        for how, resize in (("bilinear", bilinear), ("nearest", nearest_pixel)):
            yield _image_change(
                f"resized to {side} ({how})",
                f"the images are resized to {side} pixels ({how})",
                functools.partial(resize, side=side),
                1,
            )
    yield _image_change(
        "batch reversed", "the images are in reverse order", lambda x: x[::-1], 1, whole_batch=True
    )


def _shifted(x: Array, axis: int, step: int) -> Array:
    """What leaves is lost; what comes in is zero."""
    moved = np.roll(x, step, axis)
    index: list[slice | int] = [slice(None)] * 4
    index[axis] = 0 if step > 0 else -1
    moved[tuple(index)] = 0
    return moved


def _cropped(x: Array) -> Array:
    top, left = x.shape[1] // 16, x.shape[2] // 16
    inner = np.zeros_like(x)
    window = (slice(None), slice(top, x.shape[1] - top), slice(left, x.shape[2] - left))
    inner[window] = x[window]
    return inner


def bilinear(x: Array, side: int) -> Array:
    """To `side` x `side` pixels, centres aligned, without smoothing (PyTorch's default)."""
    if x.shape[1:3] == (side, side):
        return x
    for axis in (1, 2):
        n = x.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = x.take(low, axis) * (1 - share) + x.take(np.minimum(low + 1, n - 1), axis) * share
    return x


def nearest_pixel(x: Array, side: int) -> Array:
    if x.shape[1:3] == (side, side):
        return x
    for axis in (1, 2):
        x = x.take(np.arange(side) * x.shape[axis] // side, axis)
    return x


def _of_preprocessing(spec: ResNetSpec, prepared: str | None) -> Iterator[Hypothesis]:
    """Images prepared in another way than they are in the file, or once more, or not at all."""
    if spec.in_channels not in (1, 3):
        return
    known = {k: v for k, v in PREPROCESSING.items() if not v.reverse}
    first: Sequence[str] = [p for p in (prepared, "imagenet") if p in known]
    for how in dict.fromkeys((*first, *known)):
        if how == "0 to 255":
            continue
        assumed = how in first
        yield _image_change(
            f"normalised twice ({how})",
            f"the images are normalised once more, by {how}",
            functools.partial(_prepared, before=None, after=known[how], channels=spec.in_channels),
            0 if assumed else 1,
        )
        if assumed:
            yield from _halfway(how, known[how], spec.in_channels)
        for other in known if assumed else ():
            if other != how:
                what = {
                    "unit": "the images are not normalised (0 to 1)",
                    "0 to 255": "the images are not normalised (0 to 255)",
                }.get(other, f"the images are normalised by {other}")
                yield _image_change(
                    f"{other} for {how}",
                    f"{what}, where {how} is meant",
                    functools.partial(
                        _prepared, before=known[how], after=known[other], channels=spec.in_channels
                    ),
                )
    yield _image_change("times 255", "the images are 255 times as large", lambda x: x * 255)
    yield _image_change("over 255", "the images are divided by 255 once more", lambda x: x / 255)


def _halfway(how: str, right: Preprocessing, channels: int) -> Iterator[Hypothesis]:
    """The right numbers, some of them left out or in another order."""
    for what, wrong in (
        ("the mean subtracted, not divided by the deviation", right._replace(std=ONES)),
        ("divided by the deviation, the mean not subtracted", right._replace(mean=ZEROS)),
        ("mean and deviation exchanged", right._replace(mean=right.std, std=right.mean)),
        ("not divided by 255 before the mean is subtracted", right._replace(divisor=1)),
        ("divided by 255 twice before the mean is subtracted", right._replace(divisor=255 * 255)),
        (
            "the mean and deviation of BGR on RGB",
            right._replace(mean=right.mean[::-1], std=right.std[::-1]),
        ),
    ):
        if wrong != right and all(wrong.std):
            yield _image_change(
                f"{how}: {what}",
                f"the images are normalised wrongly ({how}): {what}",
                functools.partial(_prepared, before=right, after=wrong, channels=channels),
            )


def _prepared(x: Array, before: Preprocessing | None, after: Preprocessing, channels: int) -> Array:
    """Images as `before` has left them, taken back to pixels, and prepared by `after`."""

    def per_channel(values: Sequence[float]) -> Array:
        return np.asarray(values) if channels == 3 else np.asarray(values).mean(keepdims=True)

    pixels = x
    if before is not None:
        pixels = (x * per_channel(before.std) + per_channel(before.mean)) * before.divisor
        return (pixels / after.divisor - per_channel(after.mean)) / per_channel(after.std)
    mean = per_channel(after.mean) / (255 if after.divisor == 1 else 1)
    std = per_channel(after.std) / (255 if after.divisor == 1 else 1)
    return (pixels - mean) / std


def softmax(x: Array) -> Array:
    grown = np.exp(x - x.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _of_outputs(spec: ResNetSpec) -> Iterator[Hypothesis]:
    if not spec.num_classes:
        return
    for name, what, change in (
        ("softmax", "a softmax stands behind the classifier", softmax),
        ("log-softmax", "a logarithmic softmax stands behind the classifier", log_softmax),
        ("sigmoid", "a sigmoid stands behind the classifier", lambda x: (1 + np.tanh(x / 2)) / 2),
        ("relu", "a ReLU stands behind the classifier", lambda x: np.maximum(x, 0)),
        (
            "background class left out",
            "the first class, the background, is left out",
            lambda x: x[:, 1:],
        ),
        ("last class left out", "the last class is left out", lambda x: x[:, :-1]),
        (
            "background class added",
            "a background class is put in front of the others (zero)",
            lambda x: np.concatenate([np.zeros_like(x[:, :1]), x], axis=1),
        ),
        (
            "shifted by the background class",
            "the classes are shifted by one, as by a background class",
            lambda x: np.roll(x, 1, axis=1),
        ),
        (
            "shifted back by the background class",
            "the classes are shifted back by one",
            lambda x: np.roll(x, -1, axis=1),
        ),
        (
            "classes sorted as text",
            "the classes are in the order of their numbers as text (1, 10, 100, 101 …)",
            lambda x: x[:, sorted(range(x.shape[1]), key=str)],
        ),
    ):
        yield Hypothesis(
            "surroundings", name, what, functools.partial(_returning, change=change), rank=0
        )


def _returning(port: Port, change: Callable[[Array], Array]) -> Port:
    return dataclasses.replace(port, outputs=(*port.outputs, change))


def _of_mode(spec: ResNetSpec) -> Iterator[Hypothesis]:
    if spec.norm.kind == "batch":
        yield Hypothesis(
            "mode",
            "batch statistics in evaluation",
            "the norms use the batch's own statistics in evaluation (training mode)",
            lambda port: dataclasses.replace(port, batch_statistics=True),
            rank=0,
            whole_batch=True,
            shows_in="evaluation",
        )
    if spec.drops:
        yield Hypothesis(
            "mode",
            "dropout active in evaluation",
            "dropout is active in evaluation, with the masks of the probe",
            lambda port: dataclasses.replace(port, dropout=_probe_masks),
            rank=0,
            whole_batch=True,
            shows_in="evaluation",
        )


def _probe_masks(plan: Plan, batch: int) -> dict[str, Array]:
    return dropout_masks(plan, batch, 0)


def _in_precision(port: Port, precision: str) -> Port:
    return dataclasses.replace(port, precision=precision)


def of_precision() -> Iterator[Hypothesis]:
    """Rounding, no mistake; see `shared.verification.diagnosis.execution` for how it is done."""
    for precision in PRECISIONS:
        yield Hypothesis(
            "precision",
            precision,
            f"rounding, no mistake: as large as {precision} makes it",
            functools.partial(_in_precision, precision=precision),
            rank=9,
        )
