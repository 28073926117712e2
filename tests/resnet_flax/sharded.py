"""Run by `test_sharding.py` in a process of eight CPU devices: the network cut up over a mesh.

Each line that is printed is a name and a number.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import resnet_flax
from shared import get_spec, miniature, probe_images, probe_weights

SPEC = miniature(get_spec("torchvision/resnet50")).replace(depths=(1, 1))
IMAGES = jnp.asarray(probe_images((8, 32, 32, 3), dtype="float64"))
AUTO = (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Auto)
MESH = jax.make_mesh((4, 2), ("data", "model"), axis_types=AUTO)


def sharding(array):
    """Output channels over the devices of a model; what does not divide is on all of them."""
    last = "model" if array.ndim and array.shape[-1] % MESH.shape["model"] == 0 else None
    return NamedSharding(MESH, PartitionSpec(*[None] * (array.ndim - 1), last))


@nnx.jit
def build():
    """The idiom for models that no device holds as a whole: built where they stay."""
    model = resnet_flax.build(SPEC, dtype="float64")
    state = nnx.state(model)
    nnx.update(model, jax.lax.with_sharding_constraint(state, jax.tree.map(sharding, state)))
    return model


@nnx.jit
def step(model, optimizer, images):
    loss, gradients = nnx.value_and_grad(lambda model: (model(images) ** 2).mean())(model)
    optimizer.update(model, gradients)
    return loss


def trained(model, images):
    resnet_flax.load_weights(model, probe_weights(SPEC, dtype="float64"))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    loss = step(model, optimizer, images)
    return float(loss), resnet_flax.export_weights(model)


def devices(model):
    return len(model.stem.conv1.kernel[...].sharding.device_set)


with jax.set_mesh(MESH):
    sharded = build()
    print("devices", devices(sharded))
    kernel = sharded.stem.conv1.kernel[...]
    print("share", kernel.addressable_shards[0].data.shape[-1] / kernel.shape[-1])
    loss, found = trained(
        sharded, jax.device_put(IMAGES, NamedSharding(MESH, PartitionSpec("data")))
    )
    print("devices after a load and a step", devices(sharded))

expected_loss, expected = trained(resnet_flax.build(SPEC, dtype="float64"), IMAGES)
print("loss", abs(loss / expected_loss - 1))
print("weights", max(np.abs(found[n] - a).max() / np.abs(a).max() for n, a in expected.items()))
