"""A network as a file of PyTorch: `nn.Module` classes, attribute paths as canonical names."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shared.architecture.ops import BatchNorm, BlurPool, Conv
from shared.source import torch_layers
from shared.source.facts import ALWAYS, NEVER, Facts, norm_of
from shared.source.lines import call, docstring, indented, number
from shared.source.peculiar import head_of

LOADING = """\
    model = ResNet()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))
    model.eval()"""


def torch_file(facts: Facts) -> str:
    """The file's text."""
    parts = [
        *torch_layers.corrections(facts),
        [_norm(facts)],
        list(_block(facts)),
        *([list(_projection(facts))] if facts.projects != NEVER else []),
        list(_stem(facts)),
        _STAGE.splitlines(),
        list(_net(facts)),
    ]
    if facts.projects != NEVER:  # what a block uses stands in front of it
        parts[-4], parts[-5] = parts[-5], parts[-4]
    body = "\n\n\n".join("\n".join(part) for part in parts)
    # Values stand one blank line behind the imports, classes two.
    between = "\n\n" if parts[0][0].startswith("batch_norm") else "\n\n\n"
    between = "\n\n" if parts[0][0].startswith("group_norm") else between
    return "\n".join([*head_of(facts, "PyTorch", "NCHW", LOADING), "", *_imports(body)]) + (
        f"{between}{body}\n"
    )


def _imports(body: str) -> Iterator[str]:
    yield "from functools import partial"
    yield ""
    if "torch." in body.replace("safetensors.torch.", ""):
        yield "import torch"
    if "F." in body:
        yield "import torch.nn.functional as F"
    yield "from torch import Tensor, nn"


def _norm(facts: Facts) -> str:
    norm = norm_of(facts.plan)
    eps = number(norm.eps or math.ulp(0.0))
    if not isinstance(norm, BatchNorm):
        return f"group_norm = partial(nn.GroupNorm, {norm.groups}, eps={eps})"
    layer = "nn.BatchNorm2d" if norm.unbiased else "BiasedBatchNorm2d"
    # PyTorch's momentum is the weight of the new value, the plan's of the old.
    return (
        f"batch_norm = partial({layer}, eps={eps}, momentum={number(round(1 - norm.momentum, 12))})"
    )


def norm_name(facts: Facts) -> str:
    return "batch_norm" if isinstance(norm_of(facts.plan), BatchNorm) else "group_norm"


def _conv(
    op: Conv,
    channels: tuple[str, str],
    stride: str = "1",
    dilation: str = "1",
    depth: int = 2,
    name: str = "conv",
    end: str = ")",
) -> list[str]:
    """`self.conv1 = nn.Conv2d(…)`."""
    same = op.padding == "same" and op.kernel_size > 1 and stride != "1"
    layer = "nn.Conv2d"
    if op.weight_std_eps is not None:
        layer = "StdConv2d"
    elif same:
        layer = "SameConv2d"
    given = [*channels, str(op.kernel_size)]
    given += [f"stride={stride}"] if stride != "1" else []
    if op.kernel_size > 1 and not same:
        reach = op.kernel_size // 2
        padding = (
            str(reach) if dilation == "1" else dilation if reach == 1 else f"{reach} * {dilation}"
        )
        given.append(f"padding={padding}")
    given += [f"dilation={dilation}"] if dilation != "1" and op.kernel_size > 1 else []
    given += [f"groups={op.groups}"] if op.groups > 1 else []
    given += [] if op.bias else ["bias=False"]
    return call(f"self.{name} = {layer}(", given, end, depth)


def _block(facts: Facts) -> Iterator[str]:
    one, norm = facts.one, norm_name(facts)
    yield f"class {facts.kind}(nn.Module):"
    yield from docstring([facts.about_block], 1)
    yield ""
    yield from call("def __init__(", ["self", *facts.signature()], "):", 1)
    yield "        super().__init__()"
    pre = one.order == "full_pre"
    for k in range(1, len(one.convs) + 1):
        conv = facts.conv(k)
        last = k == len(one.convs)
        normed = facts.channels(k)[0 if pre else 1]
        layer = f"{norm}({normed})"
        if pre and not (k == 1 and facts.preact == NEVER):
            absent = f" if {facts.preact} else None" if k == 1 and facts.preact != ALWAYS else ""
            yield f"        self.norm{k} = {layer}{absent}"
        if last and facts.anti_aliases != NEVER:
            blur = isinstance(facts.anti_alias, BlurPool)
            pool = "BlurPool2d(stride)" if blur else "nn.AvgPool2d(2, stride)"
            absent = (
                ""
                if facts.anti_aliases == ALWAYS
                else f" if {facts.anti_aliases} else nn.Identity()"
            )
            yield f"        self.anti_alias = {pool}{absent}"
        stride = "stride" if facts.striding == k else "1"
        yield from _conv(conv, facts.channels(k), stride, facts.dilation(k), name=f"conv{k}")
        if not pre:
            yield f"        self.norm{k} = {layer}"
    yield from indented(_shortcut(facts), 2)
    if one.order == "act_only_pre" and facts.preact not in (ALWAYS, NEVER):
        yield f"        self.preact = {facts.preact}"
    if facts.preact != NEVER and facts.shares not in (ALWAYS, NEVER):
        yield f"        self.share = {facts.shares}"
    yield ""
    yield "    def forward(self, x: Tensor) -> Tensor:"
    yield from indented(_forward(facts), 2)


def _shortcut(facts: Facts) -> Iterator[str]:
    """The layers beside the branch."""
    one, stride = facts.one, ", stride" if facts.strides else ""
    if facts.plain:
        return
    identity = "self.shortcut = nn.Identity()"
    choices = [
        (facts.projects, f"self.shortcut = Projection(in_channels, {facts.out}{stride})"),
        (facts.subsamples, f"self.shortcut = Subsample({facts.subsample_arguments})"),
        (ALWAYS, identity),
    ]
    if facts.averages not in (ALWAYS, NEVER, "stride != 1"):
        choices[0] = (
            facts.projects,
            f"self.shortcut = Projection(in_channels, {facts.out}{stride}, {facts.averages})",
        )
    yield from branches(choices)
    if one.dropout is not None:
        yield f"self.dropout = nn.Dropout({number(one.dropout.rate)})"
    if one.gate is not None:
        given = f", stride={stride[2:]}" if stride else ""
        yield f"self.gate = nn.Conv2d(in_channels, {facts.out}, 1{given})"


def branches(choices: list[tuple[str, str]]) -> Iterator[str]:
    """`if … elif … else` of the choices that can be."""
    word = "if"
    for condition, text in choices:
        if condition == NEVER:
            continue
        if condition == ALWAYS:
            yield from [text] if word == "if" else ["else:", f"    {text}"]
            return
        yield f"{word} {condition}:"
        yield f"    {text}"
        word = "elif"


def _forward(facts: Facts) -> Iterator[str]:
    one, last = facts.one, len(facts.one.convs)
    x = "x"
    if facts.preact != NEVER:
        active = "F.relu(self.norm1(x))" if one.order == "full_pre" else "F.relu(x)"
        if facts.preact != ALWAYS:
            test = "self.norm1 is not None" if one.order == "full_pre" else "self.preact"
            active = f"{active} if {test} else x"
        yield f"preact = {active}"
        x = "preact"
    source = {ALWAYS: x, NEVER: "x"}.get(facts.shares, "preact if self.share else x")
    if facts.preact == NEVER:
        source = "x"
    if not facts.plain:
        yield f"shortcut = self.shortcut({source})"
    if one.dropout is not None:
        yield "shortcut = self.dropout(shortcut)"
    if one.gate is not None:
        yield f"gate = torch.sigmoid(self.gate({source}))"
    for k in range(1, last + 1):
        if one.order == "full_pre":
            inner = x if k == 1 else f"F.relu(self.norm{k}(x))"
            yield f"x = self.conv{k}({inner})"
        else:
            value = f"self.anti_alias({x})" if k == last and facts.anti_aliases != NEVER else x
            value = f"self.conv{k}({value})"
            if k < last or one.order != "norm_after_add":
                value = f"self.norm{k}({value})"
            yield (
                f"x = F.relu({value})"
                if k < last or one.order == "act_before_add"
                else f"x = {value}"
            )
        x = "x"
    joined = facts.joined
    if one.order == "norm_after_add":
        joined = f"self.norm{last}({joined})"
    yield (
        f"return F.relu({joined})"
        if one.order in ("post", "norm_after_add")
        else f"return {joined}"
    )


def _projection(facts: Facts) -> Iterator[str]:
    path = facts.projection
    yield "class Projection(nn.Sequential):"
    yield from docstring([facts.about_projection], 1)
    yield ""
    choose = facts.averages not in (ALWAYS, NEVER, "stride != 1")
    stride = ["stride: int"] if facts.strides else []
    average = ["average: bool"] if choose else []
    arguments = ["self", "in_channels: int", "out_channels: int", *stride, *average]
    yield from call("def __init__(", arguments, "):", 1)
    yield "        super().__init__()"
    conv_stride = "stride" if facts.strides else "1"
    if facts.averages != NEVER:
        pool = "self.pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)"
        condition = "average" if choose else facts.averages
        yield from indented(branches([(condition, pool)]), 2)
        conv_stride = "1"
    yield from _conv(facts.projection_conv, ("in_channels", "out_channels"), conv_stride)
    if path.norm is not None:
        yield f"        self.norm = {norm_name(facts)}(out_channels)"


def _stem(facts: Facts) -> Iterator[str]:
    stem = facts.plan.stem
    yield "class Stem(nn.Module):"
    yield from docstring([facts.about_stem], 1)
    yield ""
    yield "    def __init__(self):"
    yield "        super().__init__()"
    steps = []
    for k, (conv, norm) in enumerate(zip(stem.convs, stem.norms, strict=True), 1):
        channels = (str(conv.in_channels), str(conv.out_channels))
        line = _conv(conv, channels, str(conv.stride), name=f"conv{k}")
        yield from facts.with_shape(line, f"stem.conv{k}", first=True)
        value = f"self.conv{k}(x)"
        if norm is not None:
            yield f"        self.norm{k} = {norm_name(facts)}({norm.channels})"
            value = f"F.relu(self.norm{k}({value}))"
        steps.append(f"x = {value}")
    if stem.pool is not None:
        yield from facts.with_shape(
            [f"        self.pool = {torch_layers.pool(stem.pool)}"], "stem.pool", first=True
        )
        steps.append("x = self.pool(x)")
    if stem.anti_alias is not None:
        yield from facts.with_shape(
            [f"        self.anti_alias = BlurPool2d({stem.anti_alias.stride})"],
            "stem.anti_alias",
            first=True,
        )
        steps.append("x = self.anti_alias(x)")
    steps[-1] = steps[-1].replace("x = ", "return ", 1)
    yield ""
    yield "    def forward(self, x: Tensor) -> Tensor:"
    yield from indented(steps, 2)


_STAGE = '''class Stage(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, *blocks: nn.Module):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)'''


def _net(facts: Facts) -> Iterator[str]:
    plan, spec = facts.plan, facts.spec
    yield "class ResNet(nn.Module):"
    yield from docstring([facts.about_net("[N, C, H, W]")], 1)
    yield ""
    yield "    def __init__(self):"
    yield "        super().__init__()"
    yield "        self.stem = Stem()"
    yield "        self.stages = nn.Sequential("
    for i, stage in enumerate(plan.stages):
        last = f"stages.{i}.blocks.{len(stage) - 1}"
        yield f"            Stage(  # {facts.shown_shape(last, first=True)}"
        for block, count in facts.runs(stage):
            given = ", ".join([str(block.convs[0].in_channels), *facts.values(block)])
            one = f"{facts.kind}({given})"
            yield (
                f"                {one},"
                if count == 1
                else (f"                *({one} for _ in range({count})),")
            )
        yield "            ),"
    yield "        )"
    features = spec.widths[-1] * spec.expansion
    if plan.final_norm is not None:
        yield f"        self.final_norm = {norm_name(facts)}({features})"
    if plan.pool is not None:
        mode = "Avg" if plan.pool.mode == "avg" else "Max"
        yield f"        self.pool = nn.Adaptive{mode}Pool2d(1)"
    if plan.head is not None:
        line = f"        self.head = nn.Linear({features}, {plan.head.out_features})"
        yield from facts.with_shape([line], "head", first=True)
    yield ""
    yield "    def forward(self, x: Tensor) -> Tensor:"
    steps = ["x = self.stem(x)", "x = self.stages(x)"]
    final = "self.final_norm(x)" if plan.final_norm is not None else "x"
    if plan.final_act:
        steps.append(f"x = F.relu({final})")
    if plan.pool is not None:
        steps.append("x = self.pool(x).flatten(1)")
    if plan.head is not None:
        steps.append("x = self.head(x)")
    steps[-1] = steps[-1].replace("x = ", "return ", 1)
    yield from indented(steps, 2)
