"""Dropout that can be told what to keep, so that every framework drops the same values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops as kops
from keras.saving import register_keras_serializable

from resnet_keras.init import Scope
from shared.architecture import ops


@register_keras_serializable(package="resnet_rosetta")
class MaskedDropout(keras.layers.Dropout):
    """`Dropout` that keeps what it is told to keep, inside `keeping`."""

    keep: Any = None  # bool [batch, height, width, channels]

    def call(self, inputs: Any, training: bool = False) -> Any:
        if self.keep is None or not training:
            return super().call(inputs, training=training)
        return inputs * kops.cast(self.keep, inputs.dtype) / (1 - self.rate)


@contextmanager
def keeping(model: keras.Model, masks: Mapping[str, Any]) -> Iterator[None]:
    """Calls of `model` in training mode drop what `masks` have False: bool NHWC tensors by the
    layer's name.

    Dropouts without a mask draw their own.
    """
    layers = {name: model.get_layer(name) for name in masks}
    try:
        for name, layer in layers.items():
            layer.keep = masks[name]
        yield
    finally:
        for layer in layers.values():
            layer.keep = None  # a tensor of a traced function must not outlive it


def Dropout(op: ops.Dropout, scope: Scope) -> keras.layers.Layer:
    return MaskedDropout(op.rate, seed=scope.dropout_seed(), name=scope.name, dtype=scope.dtype)
