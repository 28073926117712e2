"""A network as a file of Keras 3, with the functional API; layer names are the canonical names.

A layer that is no stock layer stands in the file only where the network needs it, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from shared.architecture.ops import AvgPool, BatchNorm, BlurPool, Conv, MaxPool
from shared.errors import SpecError
from shared.source.classes import branches
from shared.source.facts import ALWAYS, NEVER, Facts, norm_of
from shared.source.lines import call, docstring, indented, joined, number
from shared.source.peculiar import head_of

LOADING = """\
    model = ResNet()
    load_weights(model, safetensors.numpy.load_file("weights.safetensors"))"""

DEEP = 70  # blocks; Keras walks a graph with one Python frame a layer, and Python allows 1000

UNBIASED_NORM = '''@keras.saving.register_keras_serializable()
class UnbiasedBatchNormalization(layers.BatchNormalization):
    """Averages unbiased variances, as the network's own framework does.

    The stock layer stores a batch's variance as it is, (n - 1) / n of that, with n the values of a
    channel.
    """

    def call(self, inputs, training=None, mask=None):
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            moved = ops.convert_to_tensor(self.moving_variance) - kept
            images, height, width, _ = ops.shape(inputs)
            n = ops.cast(images * height * width, moved.dtype)
            self.moving_variance.assign(kept + moved * n / (n - 1))
        return outputs'''

STD_CONV = '''@keras.saving.register_keras_serializable()
class StdConv2D(layers.Conv2D):
    """Standardises each filter by its own mean and variance before use (Big Transfer)."""

    def convolution_op(self, inputs, kernel):
        mean, variance = ops.moments(ops.convert_to_tensor(kernel), (0, 1, 2))
        kernel = (kernel - mean) / ops.sqrt(variance + {eps})
        return super().convolution_op(inputs, kernel)'''

BLUR = '''@keras.saving.register_keras_serializable()
class BlurPool2D(layers.Layer):
    """A fixed binomial filter for every channel, on an image that is reflected at its borders."""

    def __init__(self, stride, **kwargs):
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, inputs):
        x = ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:])[:, :: self.stride] / 4
        return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:])[:, :, :: self.stride] / 4

    def get_config(self):
        return {**super().get_config(), "stride": self.stride}'''

LOAD = '''def load_weights(model, weights):
    """Canonical tensors into the model, layer by layer; kernels are HWIO here."""
    leaves = {leaves}
    if sum(len(layer.weights) for layer in model.layers) != len(weights):
        raise ValueError("weights of another network")
    for layer in model.layers:
        names = [f"{layer.name}.{leaf}" for leaf in leaves]
        arrays = [weights[name] for name in names if name in weights]
        layer.set_weights([a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T for a in arrays])'''


def keras_file(facts: Facts) -> str:
    """The file's text. Raises `SpecError` for what Keras cannot say."""
    if any(c.dilation > 1 and c.stride > 1 for block in facts.blocks for c in block.convs):
        raise SpecError(
            "no source can be written for Keras with dilate where a later stage strides: its "
            "Conv2D does not stride and dilate at once; dilate the later stages too"
        )
    leaves = '("weight", "bias", "running_mean", "running_var")'
    if not isinstance(norm_of(facts.plan), BatchNorm):
        leaves = '("weight", "bias")'
    body = [
        *corrections(facts),
        list(_norm(facts)),
        list(_block(facts)),
        list(_net(facts)),
        LOAD.replace("{leaves}", leaves).splitlines(),
    ]
    # Keras makes a variable's path the name of a `torch.nn.Parameter`, which may have no dots.
    note = " Names have dots, so TensorFlow or JAX has to be the backend."
    return joined(head_of(facts, "Keras 3", "NHWC", LOADING, note), _imports, body)


def _imports(body: str) -> Iterator[str]:
    if "sys." in body:
        yield "import sys"
        yield ""
    yield "import keras"
    yield "from keras import layers, ops" if "ops." in body else "from keras import layers"


def corrections(facts: Facts) -> list[list[str]]:
    """The classes, in the order in which they stand in the file."""
    norm, eps = norm_of(facts.plan), facts.spec.weight_std_eps
    found = [STD_CONV.replace("{eps}", number(eps))] if eps is not None else []
    if isinstance(norm, BatchNorm) and norm.unbiased:
        found.append(UNBIASED_NORM)
    if isinstance(facts.anti_alias, BlurPool) or facts.plan.stem.anti_alias is not None:
        found.append(BLUR)
    return [text.splitlines() for text in found]


def _norm(facts: Facts) -> Iterator[str]:
    norm = norm_of(facts.plan)
    if isinstance(norm, BatchNorm):
        layer = "UnbiasedBatchNormalization" if norm.unbiased else "layers.BatchNormalization"
        given = [f"momentum={number(norm.momentum)}", f"epsilon={number(norm.eps)}"]
        given += ["scale=scale"] if _unscaled(facts) else []
        yield f"def batch_norm(x, name{', scale=True' * _unscaled(facts)}):"
    else:
        layer, given = (
            "layers.GroupNormalization",
            [str(norm.groups), f"epsilon={number(norm.eps)}"],
        )
        yield "def group_norm(x, name):"
    yield from call(f"return {layer}(", [*given, "name=name"], ")(x)", 1)


def _unscaled(facts: Facts) -> bool:
    """Whether the norm of the images has no gamma."""
    norm = facts.plan.stem.input_norm
    return norm is not None and not norm.scale


def _norm_name(facts: Facts) -> str:
    return "batch_norm" if isinstance(norm_of(facts.plan), BatchNorm) else "group_norm"


def _conv(
    op: Conv, out: str, name: str, stride: str, dilation: str, source: str, target: str
) -> Iterator[str]:
    """The convolution, and in front of it the padding that Keras has no word for."""
    padded = op.kernel_size > 1 and op.padding == "symmetric" and stride != "1"
    if padded:
        yield '# padding="same" would pad less in front than behind, at stride 2 on even sizes.'
        yield f"{target} = layers.ZeroPadding2D({op.kernel_size // 2})({source})"
        source = target
    given = [out, str(op.kernel_size)]
    given += [f"strides={stride}"] if stride != "1" else []
    given += ['padding="same"'] if op.kernel_size > 1 and not padded else []
    given += [f"dilation_rate={dilation}"] if dilation != "1" else []
    given += [f"groups={op.groups}"] if op.groups > 1 else []
    given += [] if op.bias else ["use_bias=False"]
    layer = "StdConv2D" if op.weight_std_eps is not None else "layers.Conv2D"
    yield f"{target} = {layer}({', '.join([*given, f'name={name}'])})({source})"


def _block(facts: Facts) -> Iterator[str]:
    signature = ["x", *(s for s in facts.signature() if s != "in_channels: int")]
    signature.insert(2, "name: str")
    yield from call(f"def {function(facts)}(", signature, "):")
    yield from docstring([facts.about_block], 1)
    lines = list(_body(facts))
    # Lines are made without a margin, and are folded again with one.
    yield from indented(_refolded(lines))


def function(facts: Facts) -> str:
    """The name of the function that makes a block."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", facts.kind.replace("PreAct", "Preact")).lower()


def _refolded(lines: list[str], depth: int = 1) -> list[str]:
    """Calls that are too long once they are indented, folded."""
    found: list[str] = []
    for line in lines:
        margin = (len(line) - len(line.lstrip())) // 4
        start, opening, rest = line.strip().partition("(")
        if len(line) + 4 * depth <= 100 or not opening:
            found.append(line)
            continue
        arguments, _, end = rest.rpartition(")(")
        folded = call(f"{start}(", arguments.split(", "), f")({end}", margin + depth)
        found += [each[4 * depth :] for each in folded]
    return found


def _body(facts: Facts) -> Iterator[str]:
    one, last, norm = facts.one, len(facts.one.convs), _norm_name(facts)
    x = "x"
    if facts.preact != NEVER:
        active = ["active = layers.ReLU()(x)"]
        if one.order == "full_pre":
            active = [f'active = {norm}(x, f"{{name}}.norm1")', "active = layers.ReLU()(active)"]
        if facts.preact == ALWAYS:
            yield from active
        else:
            yield "active = x"
            yield f"if {_here(facts.preact)}:"
            yield from indented(active)
        x = "active"
    source = x if facts.shares == ALWAYS else "x"
    choice = facts.preact != NEVER and facts.shares not in (ALWAYS, NEVER)
    if choice and facts.shares != facts.projects:
        yield f"source = active if {_here(facts.shares)} else x"
        source = "source"
    elif choice:
        source = "active"
    if not facts.plain:
        yield from _shortcut(facts, source, "x" if source == "active" and choice else source)
    if one.gate is not None:
        stride = "stride" if facts.strides else "1"
        yield from _conv(one.gate, facts.out, 'f"{name}.gate"', stride, "1", source, "gate")
        yield "gate = ops.sigmoid(gate)"
    for k in range(1, last + 1):
        if one.order == "full_pre" and k > 1:
            yield f'x = {norm}(x, f"{{name}}.norm{k}")'
            yield "x = layers.ReLU()(x)"
        if k == last and one.dropout is not None:
            yield f"x = layers.Dropout({number(one.dropout.rate)})(x)"
        if k == last and facts.anti_aliases != NEVER:
            blur = isinstance(facts.anti_alias, BlurPool)
            layer = "BlurPool2D(stride)" if blur else "layers.AveragePooling2D(2, stride)"
            yield from branches([(_here(facts.anti_aliases), f"x = {layer}(x)")])
        stride = "stride" if facts.striding == k else "1"
        out, name = facts.channels(k)[1], f'f"{{name}}.conv{k}"'
        yield from _conv(facts.conv(k), out, name, stride, facts.dilation(k), x, "x")
        x = "x"
        if one.order == "full_pre":
            continue
        if k < last or one.order != "norm_after_add":
            yield f'x = {norm}(x, f"{{name}}.norm{k}")'
        if k < last or one.order == "act_before_add":
            yield "x = layers.ReLU()(x)"
    yield from _end(facts)


def _end(facts: Facts) -> Iterator[str]:
    """Shortcut and branch made one; the block's output has the block's name."""
    order = facts.one.order
    activated = order in ("post", "norm_after_add")
    if facts.joined != "shortcut + x":
        if facts.joined != "x":
            yield f"x = {facts.joined}"
    elif activated:
        yield "x = layers.Add()([shortcut, x])"
    else:
        yield "return layers.Add(name=name)([shortcut, x])"
        return
    if order == "norm_after_add":
        yield f'x = {_norm_name(facts)}(x, f"{{name}}.norm{len(facts.one.convs)}")'
    yield "return layers.ReLU(name=name)(x)" if activated else "return x"


def _here(condition: str) -> str:
    return condition.replace("in_channels", "x.shape[-1]")


def _shortcut(facts: Facts, projected: str, kept: str) -> Iterator[str]:
    """The path around the branch; `projected` is what a projection starts from, `kept` what is the
    shortcut where there is none.
    """
    steps = list(_projection(facts, projected)) if facts.projects != NEVER else []
    if facts.projects == ALWAYS:
        yield from steps
    else:
        yield f"shortcut = {kept}"
        word = "if"
        if facts.projects != NEVER:
            yield f"if {_here(facts.projects)}:"
            yield from indented(steps)
            word = "elif"
        if facts.subsamples != NEVER:
            steps = list(_subsampled(facts, "shortcut"))
            if facts.subsamples == ALWAYS and word == "if":
                yield from steps
            else:
                yield (
                    "else:" if facts.subsamples == ALWAYS else f"{word} {_here(facts.subsamples)}:"
                )
                yield from indented(steps)
    if facts.one.shortcut_dropout is not None:
        rate = number(facts.one.shortcut_dropout.rate)
        yield f"shortcut = layers.Dropout({rate})(shortcut)"


def _projection(facts: Facts, source: str) -> Iterator[str]:
    stride = "stride" if facts.strides and facts.averages == NEVER else "1"
    if facts.averages != NEVER:
        pool = 'layers.AveragePooling2D(2, stride, padding="same")'
        if facts.averages == ALWAYS:
            yield f"pooled = {pool}({source})"
        elif source == "x":
            yield f"pooled = {pool}(x) if {_here(facts.averages)} else x"
        else:
            yield f"pooled = {source}"
            yield f"if {_here(facts.averages)}:"
            yield f"    pooled = {pool}(pooled)"
        source = "pooled"
    name = 'f"{name}.shortcut.conv"'
    yield from _conv(facts.projection_conv, facts.out, name, stride, "1", source, "shortcut")
    if facts.projection.norm is not None:
        yield f'shortcut = {_norm_name(facts)}(shortcut, f"{{name}}.shortcut.norm")'


def _subsampled(facts: Facts, source: str) -> Iterator[str]:
    """Every stride-th pixel is a pool of one; zero channels are option A."""
    stride = "stride" if facts.strides else "1"
    yield f"shortcut = layers.MaxPooling2D(1, strides={stride})({source})"
    if facts.zeros:
        yield f"zeros = {facts.out} - x.shape[-1]"
        sides, _ = facts.zero_sides
        yield f"shortcut = ops.pad(shortcut, ((0, 0), (0, 0), (0, 0), {sides}))"


def _pool(op: MaxPool | AvgPool, activated: bool) -> Iterator[str]:
    """The stem's pool."""
    size = f"{op.kernel_size}, {op.stride}"
    if isinstance(op, AvgPool):
        yield f'x = layers.AveragePooling2D({size}, name="stem.pool")(x)'
        return
    if op.padding == "same":
        yield f'x = layers.MaxPooling2D({size}, padding="same", name="stem.pool")(x)'
        return
    if op.padding == "valid":
        yield f'x = layers.MaxPooling2D({size}, name="stem.pool")(x)'
        return
    reach = op.kernel_size // 2
    sides = f"(0, {op.stride - 1})" if op.padding == "ceil" else f"({reach}, {reach})"
    if op.padding == "zero" or activated:
        if op.padding != "zero":
            yield "# Zeros are as good as -inf here: nothing that a ReLU leaves is below them."
        pads = f"({sides}, {sides})" if op.padding == "ceil" else str(reach)
        yield f"x = layers.ZeroPadding2D({pads})(x)"
    else:
        sides = f"((0, 0), {sides}, {sides}, (0, 0))"
        yield f'x = ops.pad(x, {sides}, constant_values=float("-inf"))'
    yield f'x = layers.MaxPooling2D({size}, name="stem.pool")(x)'


def _net(facts: Facts) -> Iterator[str]:
    yield "def ResNet():"
    yield from docstring([facts.about_net("[N, H, W, C]")], 1)
    yield from indented(_refolded(list(_layers(facts))))


def _layers(facts: Facts) -> Iterator[str]:
    plan, norm = facts.plan, _norm_name(facts)
    if sum(map(len, plan.stages)) > DEEP:
        yield "# Keras walks the graph with one Python frame a layer."
        frames = 1000 + 16 * sum(map(len, plan.stages))
        yield f"sys.setrecursionlimit(max({frames}, sys.getrecursionlimit()))"
    yield f'images = keras.Input((None, None, {facts.spec.in_channels}), name="images")'
    x, stem = "images", plan.stem
    if stem.input_norm is not None:
        fixed = ", scale=False" if _unscaled(facts) else ""
        yield f'x = {norm}(images, "stem.input_norm"{fixed})'
        x = "x"
    for k, (conv, normed) in enumerate(zip(stem.convs, stem.norms, strict=True), 1):
        name, stride = f'"stem.conv{k}"', str(conv.stride)
        lines = list(_conv(conv, str(conv.out_channels), name, stride, "1", x, "x"))
        yield from lines[:-1]
        yield from facts.with_shape(lines[-1:], f"stem.conv{k}", first=False, margin=4)
        x = "x"
        if normed is not None:
            yield f'x = {norm}(x, "stem.norm{k}")'
            yield "x = layers.ReLU()(x)"
    if stem.pool is not None:
        lines = list(_pool(stem.pool, activated=stem.norms[-1] is not None))
        yield from lines[:-1]
        yield from facts.with_shape(lines[-1:], "stem.pool", first=False, margin=4)
    if stem.anti_alias is not None:
        yield f"x = BlurPool2D({stem.anti_alias.stride})(x)"
    for i in range(len(plan.stages)):
        yield from _stage(facts, i)
    if plan.final_norm is not None:
        yield f'x = {norm}(x, "final_norm")'
    if plan.final_act:
        yield "x = layers.ReLU()(x)"
    if plan.pool is not None:
        kind = "Average" if plan.pool.mode == "avg" else "Max"
        yield f'x = layers.Global{kind}Pooling2D(name="pool")(x)'
    if plan.head is not None:
        line = f'x = layers.Dense({plan.head.out_features}, name="head")(x)'
        yield from facts.with_shape([line], "head", first=False, margin=4)
    yield 'return keras.Model(images, x, name="resnet")'


def _stage(facts: Facts, i: int) -> Iterator[str]:
    stage, lines, j = facts.plan.stages[i], [], 0
    for block, count in facts.runs(stage):
        width, *settings = facts.values(block)
        if count == 1:
            given = ", ".join(["x", width, f'"stages.{i}.blocks.{j}"', *settings])
            lines.append(f"x = {function(facts)}({given})")
        else:
            given = ", ".join(["x", width, f'f"stages.{i}.blocks.{{j}}"', *settings])
            numbers = f"{j}, {j + count}" if j else str(count)
            lines.append(f"for j in range({numbers}):")
            lines.append(f"    x = {function(facts)}({given})")
        j += count
    yield from lines[:-1]
    yield from facts.with_shape(
        lines[-1:], f"stages.{i}.blocks.{len(stage) - 1}", first=False, margin=4
    )
