"""A small network of TensorFlow's own operators, as people write them."""

from __future__ import annotations

from typing import Any

import numpy as np


def tensorflow_module() -> Any:
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            random = np.random.default_rng(0)
            self.kernel = tf.Variable(random.normal(size=(3, 3, 3, 8)), name="w", dtype="float32")
            self.shift = tf.Variable(random.normal(size=8), name="b", dtype="float32")
            self.head = tf.Variable(random.normal(size=(8, 4)), name="head", dtype="float32")

        def __call__(self, x: Any, training: bool = True) -> Any:
            assert not training
            x = tf.nn.conv2d(tf.pad(x[..., ::-1], [[0, 0], [2, 3], [2, 3], [0, 0]]), self.kernel,
                             2, [[0, 0], [1, 0], [1, 0], [0, 0]])  # fmt: skip
            x = tf.nn.bias_add(x, self.shift)
            ones, zeros = tf.ones(8), tf.zeros(8)
            x, _, _ = tf.compat.v1.nn.fused_batch_norm(
                x, ones, zeros, self.shift, ones, epsilon=1e-3, is_training=False
            )
            left, right = tf.split(tf.nn.relu6(x), 2, axis=-1)
            x = tf.concat([left, tf.maximum(left, right)], -1)
            x = tf.nn.avg_pool2d(x, 3, 2, "SAME")
            x = tf.reshape(x, [tf.shape(x)[0], -1, tf.shape(x)[3]])
            return tf.linalg.matmul(tf.reduce_mean(x, 1), self.head)

    return Net()
