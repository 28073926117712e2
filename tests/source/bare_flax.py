"""`bare_torch.py` for files of Flax NNX, in float64 by JAX_ENABLE_X64."""

import ast
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
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


def canonical(path, array):
    name = ".".join(map(str, (*path[:-1], LEAVES.get(path[-1], path[-1]))))
    return name, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


for folder in map(Path, sys.argv[1:]):
    text = (folder / "network.py").read_text("utf-8")
    names = {"safetensors": safetensors}
    exec(compile(text, "network.py", "exec"), names)  # noqa: S102 - written by the test
    loading = "".join(
        line[4:].replace("weights.safetensors", str(folder / "weights.safetensors")) + "\n"
        for line in ast.get_docstring(ast.parse(text), clean=False).splitlines()
        if line.startswith("    ")
    )
    exec(loading, names)  # noqa: S102
    model, batch = names["model"], np.load(folder / "batch.npz")
    found = {"output": np.asarray(evaluate(model, batch["images"]))}
    model.train()
    step(model, batch["images"], batch["labels"], float(batch["rate"]))
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        name, array = canonical(path, np.asarray(variable[...]))
        found[name] = array
    np.savez(folder / "found.npz", **found)

ours = [name for name in sys.modules if name.partition(".")[0].startswith(("shared", "resnet_"))]
sys.exit(f"imported {ours}" if ours else 0)
