"""`bare_torch.py` for files of Flax NNX, in float64 by JAX_ENABLE_X64."""

import jax
import jax.numpy as jnp
import numpy as np
import running
import safetensors.numpy
from flax import nnx

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@nnx.jit
def evaluate(model, images):
    return model(images)


@nnx.jit
def step(model, images, labels, rate):
    def loss(model):
        chances = jax.nn.log_softmax(model(images))
        return -jnp.take_along_axis(chances, labels[:, None], 1).mean()

    gradients = nnx.grad(loss)(model)
    parameters = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda w, g: w - rate * g, parameters, gradients))


def by_tools(model, images):
    """What JAX makes of the network: a program, a state without the module, and a module again."""
    graph, state = nnx.split(model)
    call = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    compiled = call.lower(state, images).compile()
    yield "jax.jit", np.asarray(compiled(state, images))
    yield "eager", np.asarray(nnx.merge(graph, state)(images))


def canonical(path, array):
    name = ".".join(map(str, (*path[:-1], LEAVES.get(path[-1], path[-1]))))
    return name, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


for folder, model, batch in running.loaded(safetensors):
    found = {"output": np.asarray(evaluate(model, batch["images"]))}
    if (folder / "tools").exists():
        running.same(found["output"], by_tools(model, batch["images"]))
    model.train()
    step(model, batch["images"], batch["labels"], float(batch["rate"]))
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        name, array = canonical(path, np.asarray(variable[...]))
        found[name] = array
    np.savez(folder / "found.npz", **found)

running.nothing_of_ours()
