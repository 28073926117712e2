"""A network as a file of Flax NNX.

A layer that is no stock layer stands in the file only where the network needs it, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.architecture.ops import AvgPool, BatchNorm, BlurPool, Conv, MaxPool
from shared.source.classes import Dialect, average_condition, classes
from shared.source.facts import ALWAYS, NEVER, STRIDES, Facts, norm_of, symmetric_padding
from shared.source.lines import joined, number
from shared.source.peculiar import head_of

LOADING = """\
    model = ResNet(rngs=nnx.Rngs(0))
    load_weights(model, safetensors.numpy.load_file("weights.safetensors"))
    model.eval()"""

UNBIASED_NORM = '''class UnbiasedBatchNorm(nnx.BatchNorm):
    """Stores unbiased variances, as the network's own framework does; the stock layer does not."""

    def __call__(self, x: jax.Array, use_running_average: bool | None = None) -> jax.Array:
        kept = self.momentum * self.var[...]
        y = super().__call__(x, use_running_average)
        if not (self.use_running_average if use_running_average is None else use_running_average):
            n = x.size // x.shape[-1]
            self.var[...] = kept + (self.var[...] - kept) * n / (n - 1)
        return y'''

STANDARDISED = '''\
def standardised(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """A convolution whose filters have mean 0 and variance 1 (Big Transfer)."""
    mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    kernel = (kernel - mean) / jnp.sqrt(variance + {eps})
    return jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)'''

BLUR = '''class BlurPool(nnx.Module):
    """A fixed binomial filter for every channel, on an image that is reflected at its borders."""

    def __init__(self, stride: int):
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:])[:, :: self.stride] / 4
        return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:])[:, :, :: self.stride] / 4'''

AVERAGE = '''class AvgPool(nnx.Module):
    """A 2 x 2 average, in the place of a stride."""

    def __init__(self, stride: int):
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.avg_pool(x, (2, 2), (self.stride, self.stride))'''

SUBSAMPLE = '''class Subsample(nnx.Module):
    """Every `stride`-th pixel; a shortcut without weights."""

    def __init__(self, stride: int):
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return x[:, :: self.stride, :: self.stride]'''

SUBSAMPLE_ZEROS = '''class Subsample(nnx.Module):
    """Every `stride`-th pixel, and zero channels {where}: option A."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        self.stride = stride
        zeros = out_channels - in_channels
        self.zeros = {zeros}

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, :: self.stride, :: self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), self.zeros))'''

STAGE = '''class Stage(nnx.Module):
    """Blocks, one after the other."""

    def __init__(self, *blocks: nnx.Module):
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.blocks:
            x = block(x)
        return x'''

LOAD = '''def load_weights(model: ResNet, weights: dict[str, np.ndarray]) -> None:
    """Canonical tensors into the model, under their own names; kernels are HWIO here."""
    leaves = {leaves}
    variables = nnx.to_flat_state(nnx.state(model, {kinds}))
    if len(variables) != len(weights):
        raise ValueError("weights of another network")
    for path, variable in variables:
        array = weights[".".join(map(str, (*path[:-1], leaves.get(path[-1], path[-1]))))]
        variable.set_value(jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T))
'''


def flax_file(facts: Facts) -> str:
    """The file's text."""
    norm, setting = _norm(facts)
    dialect = Dialect(
        module="nnx.Module",
        method="__call__(self, x: jax.Array) -> jax.Array",
        starts=[],
        rngs=True,
        relu="nnx.relu",
        sigmoid="jax.nn.sigmoid",
        identity="nnx.identity",
        dropout="nnx.Dropout",
        linear="nnx.Linear",
        layout="[N, H, W, C]",
        conv=_conv,
        norm=norm,
        input_norm=_input_norm,
        anti_alias={BlurPool: "BlurPool(stride)", AvgPool: "AvgPool(stride)"},
        stem_pool=_stem_pool,
        global_pool={"avg": ("", "x.mean((1, 2))"), "max": ("", "x.max((1, 2))")},
        projection=_projection,
        stage=STAGE,
        stages="nnx.List(",
        listed=True,
        over_stages=["for stage in self.stages:", "    x = stage(x)"],
    )
    body = [*corrections(facts), [setting], *classes(facts, dialect), _load(facts)]
    return joined(head_of(facts, "Flax NNX", "NHWC", LOADING), _imports, body)


def _imports(body: str) -> Iterator[str]:
    yield "from functools import partial"
    if "Any" in body:
        yield "from typing import Any"
    yield ""
    yield "import jax"
    yield "import jax.numpy as jnp"
    yield "import numpy as np"
    yield "from flax import nnx"


def corrections(facts: Facts) -> list[list[str]]:
    """The classes, in the order in which they stand in the file."""
    plan, spec, norm = facts.plan, facts.spec, norm_of(facts.plan)
    found = []
    if spec.weight_std_eps is not None:
        found.append(STANDARDISED.replace("{eps}", number(spec.weight_std_eps)))
    if isinstance(norm, BatchNorm) and norm.unbiased:
        found.append(UNBIASED_NORM)
    if isinstance(facts.anti_alias, BlurPool) or plan.stem.anti_alias is not None:
        found.append(BLUR)
    if isinstance(facts.anti_alias, AvgPool):
        found.append(AVERAGE)
    if facts.subsamples != NEVER and not facts.plain:
        sides, where = facts.zero_sides
        zeros = SUBSAMPLE_ZEROS.replace("{where}", where).replace("{zeros}", sides)
        found.append(zeros if facts.zeros else SUBSAMPLE)
    return [text.splitlines() for text in found]


def _norm(facts: Facts) -> tuple[str, str]:
    """The name of what makes norms, and the line that says what it is."""
    norm = norm_of(facts.plan)
    if not isinstance(norm, BatchNorm):
        given = f"num_groups={norm.groups}, epsilon={number(norm.eps)}"
        return "group_norm", f"group_norm = partial(nnx.GroupNorm, {given})"
    layer = "UnbiasedBatchNorm" if norm.unbiased else "nnx.BatchNorm"
    given = f"momentum={number(norm.momentum)}, epsilon={number(norm.eps)}"
    return "batch_norm", f"batch_norm = partial({layer}, {given})"


def _input_norm(op: BatchNorm) -> list[str]:
    given = [str(op.channels), *([] if op.scale else ["use_scale=False"]), "rngs=rngs"]
    return [f"self.input_norm = batch_norm({', '.join(given)})"]


def _conv(op: Conv, channels: tuple[str, str], stride: str, dilation: str) -> tuple[str, list[str]]:
    given = [*channels, f"({op.kernel_size}, {op.kernel_size})"]
    given += [stride] if stride != "1" else []
    # The stock layer pads SAME, which is symmetric at stride 1.
    if op.kernel_size > 1 and op.padding == "symmetric" and stride != "1":
        given.append(f"padding={symmetric_padding(op, dilation)}")
    given += [f"kernel_dilation={dilation}"] if dilation != "1" else []
    given += [f"feature_group_count={op.groups}"] if op.groups > 1 else []
    given += [] if op.bias else ["use_bias=False"]
    given += ["conv_general_dilated=standardised"] if op.weight_std_eps is not None else []
    return "nnx.Conv", given


def _projection(facts: Facts) -> tuple[str, list[str], list[str]]:
    value = "self.conv(x)"
    if facts.projection.norm is not None:
        value = f"self.norm({value})"
    if facts.averages == NEVER:
        return "nnx.Module", [], [f"x = {value}"]
    window = "(2, 2), (self.stride, self.stride)"
    pool = f'x = nnx.avg_pool(x, {window}, "SAME", count_include_pad=False)'
    starts = ["self.stride = stride"]
    condition = average_condition(facts)
    if condition == ALWAYS:
        return "nnx.Module", starts, [pool, f"x = {value}"]
    if condition == STRIDES:
        test = "self.stride != 1"
    else:
        starts.append(f"self.average = {condition}")
        test = "self.average"
    return "nnx.Module", starts, [f"if {test}:", f"    {pool}", f"x = {value}"]


def _stem_pool(op: MaxPool | AvgPool) -> tuple[str, str]:
    window = f"({op.kernel_size}, {op.kernel_size}), ({op.stride}, {op.stride})"
    if isinstance(op, AvgPool):
        return "", f"nnx.avg_pool(x, {window})"
    reach = op.kernel_size // 2
    return "", {
        "symmetric": f"nnx.max_pool(x, {window}, (({reach}, {reach}), ({reach}, {reach})))",
        "ceil": f"nnx.max_pool(x, {window}, ((0, {op.stride - 1}), (0, {op.stride - 1})))",
        "same": f'nnx.max_pool(x, {window}, "SAME")',
        "valid": f"nnx.max_pool(x, {window})",
        "zero": f"nnx.max_pool(jnp.pad(x, ((0, 0), ({reach}, {reach}), ({reach}, {reach}), (0, 0)))"
        f", {window})",
    }[op.padding]


def _load(facts: Facts) -> list[str]:
    batch = isinstance(norm_of(facts.plan), BatchNorm)
    statistics = ', "mean": "running_mean", "var": "running_var"' if batch else ""
    leaves = f'{{"kernel": "weight", "scale": "weight"{statistics}}}'
    kinds = "(nnx.Param, nnx.BatchStat)" if batch else "nnx.Param"
    return LOAD.replace("{kinds}", kinds).replace("{leaves}", leaves).splitlines()
