"""The network as it is deployed: batch norms folded, and compiled by the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from resnet_keras.model import ResNet
from resnet_keras.weights import export_weights, load_weights, policy_of, spec_of, weight_dtype
from shared.architecture.plan import make_plan
from shared.weights.folding import fold_norms


def fold(model: keras.Model) -> ResNet:
    """The network with its batch norms folded into the convolutions in front of them, as
    `shared.weights.folding` has it.

    A network of its own that does not train, with the dtype policy and the layer names of `model`,
    which is left as it was.
    """
    spec, weights = fold_norms(spec_of(model), export_weights(model))
    folded = ResNet(make_plan(spec), dtype=policy_of(model).name)
    load_weights(folded, weights)
    folded.trainable = False
    return folded


def inference(model: keras.Model) -> Callable[[Any], Any]:
    """The network as a function of images [N, H, W, C], folded and compiled; it returns a tensor of
    the backend.

    The weights are those of now. TensorFlow freezes them into a graph, once for all shapes; JAX
    compiles at the first call, and again for another shape; PyTorch runs eagerly.
    """
    folded = fold(model)
    return {"tensorflow": _frozen, "jax": _jitted}.get(keras.backend.backend(), _eager)(folded)


def _frozen(model: ResNet) -> Callable[[Any], Any]:
    """A graph whose variables are constants, from which TensorFlow makes fused operators."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    dtype = weight_dtype(model)
    images = tf.TensorSpec((None, None, None, spec_of(model).in_channels), dtype)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(images)
    frozen = convert_variables_to_constants_v2(graph)

    def run(images: Any) -> Any:
        (outputs,) = frozen(tf.convert_to_tensor(images, dtype))
        return outputs

    return run


def _jitted(model: ResNet) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp

    variables = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        return model.stateless_call([], variables, images, training=False)[0]

    dtype = weight_dtype(model)
    return lambda images: run(variables, jnp.asarray(images, dtype))


def _eager(model: ResNet) -> Callable[[Any], Any]:
    import torch

    dtype = weight_dtype(model)

    def run(images: Any) -> Any:
        with torch.no_grad():
            return model(keras.ops.convert_to_tensor(images, dtype), training=False)

    return run
