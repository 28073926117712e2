"""A network as classes: what the files of PyTorch and of Flax NNX have in common.

A `Dialect` says what is written differently. Attribute paths are the canonical names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shared.architecture.ops import AvgPool, BatchNorm, BlurPool, Conv, MaxPool
from shared.source.facts import ALWAYS, NEVER, STRIDES, Facts
from shared.source.lines import call, docstring, indented, number


@dataclass(frozen=True)
class Dialect:
    """One framework's way to write the same classes."""

    module: str  # the base class
    method: str  # that computes
    starts: list[str]  # of a constructor
    rngs: bool  # layers are handed the generators that draw their weights
    relu: str
    sigmoid: str
    identity: str
    dropout: str
    linear: str
    layout: str  # of images
    # A convolution's class and arguments, by its channels, stride and dilation as expressions.
    conv: Callable[[Conv, tuple[str, str], str, str], tuple[str, list[str]]]
    norm: str  # the partial that makes norms
    input_norm: Callable[[BatchNorm], list[str]]  # the lines that make a stem's
    anti_alias: dict[type, str]  # a layer, by the operator
    stem_pool: Callable[[MaxPool | AvgPool], tuple[str, str]]  # a layer or "", what computes it
    global_pool: dict[str, tuple[str, str]]  # the same, by mode
    projection: Callable[[Facts], tuple[str, list[str], list[str]]]  # base, pool, what computes
    stage: str
    stages: str  # what takes the stages
    listed: bool  # as one list
    over_stages: list[str]

    @property
    def first(self) -> bool:
        """Channels are the first axis behind the batch."""
        return self.layout == "[N, C, H, W]"

    @property
    def key(self) -> list[str]:
        """What constructors take beside their numbers."""
        return ["*", "rngs: nnx.Rngs"] if self.rngs else []

    def given(self, *arguments: str) -> list[str]:
        return [*arguments, "rngs=rngs"] if self.rngs else list(arguments)

    def made(self, layer: str, *arguments: str) -> str:
        return f"{layer}({', '.join(self.given(*arguments))})"

    def conv_lines(
        self, op: Conv, name: str, channels: tuple[str, str], stride: str = "1", dilation: str = "1"
    ) -> list[str]:
        layer, arguments = self.conv(op, channels, stride, dilation)
        return call(f"self.{name} = {layer}(", self.given(*arguments), depth=2)


def classes(facts: Facts, d: Dialect) -> list[list[str]]:
    """Projection, block, stem, stage and network, each as its lines."""
    return [
        *([list(_projection(facts, d))] if facts.projects != NEVER else []),
        list(_block(facts, d)),
        list(_stem(facts, d)),
        d.stage.splitlines(),
        list(_net(facts, d)),
    ]


def _class(name: str, base: str, about: str) -> Iterator[str]:
    yield f"class {name}({base}):"
    yield from docstring([about], 1)
    yield ""


def _method(d: Dialect, steps: list[str]) -> Iterator[str]:
    """The method that computes; its last step returns."""
    last = steps[-1]
    if last.startswith("x = "):
        last = f"return {last.removeprefix('x = ')}"
    yield ""
    yield f"    def {d.method}:"
    yield from indented([*steps[:-1], last], 2)


def _block(facts: Facts, d: Dialect) -> Iterator[str]:
    one = facts.one
    pre = one.order == "full_pre"
    yield from _class(facts.kind, d.module, facts.about_block)
    yield from call("def __init__(", ["self", *facts.signature(), *d.key], "):", 1)
    yield from indented(d.starts, 2)
    for k in range(1, len(one.convs) + 1):
        norm = d.made(d.norm, facts.channels(k)[0 if pre else 1])
        if pre and not (k == 1 and facts.preact == NEVER):
            absent = f" if {facts.preact} else None" if k == 1 and facts.preact != ALWAYS else ""
            yield f"        self.norm{k} = {norm}{absent}"
        if k == len(one.convs) and one.dropout is not None:
            yield f"        self.inner_dropout = {d.made(d.dropout, number(one.dropout.rate))}"
        if k == len(one.convs) and facts.anti_aliases != NEVER:
            layer = d.anti_alias[type(facts.anti_alias)]
            absent = f" if {facts.anti_aliases} else {d.identity}"
            yield f"        self.anti_alias = {layer}{absent * (facts.anti_aliases != ALWAYS)}"
        stride = "stride" if facts.striding == k else "1"
        op, dilation = facts.conv(k), facts.dilation(k)
        yield from d.conv_lines(op, f"conv{k}", facts.channels(k), stride, dilation)
        if not pre:
            yield f"        self.norm{k} = {norm}"
    yield from indented(_shortcut(facts, d), 2)
    if one.order == "act_only_pre" and facts.preact not in (ALWAYS, NEVER):
        yield f"        self.preact = {facts.preact}"
    if facts.preact != NEVER and facts.shares not in (ALWAYS, NEVER):
        yield f"        self.shortcut_preact = {facts.shares}"
    yield from _method(d, list(_forward(facts, d)))


def _shortcut(facts: Facts, d: Dialect) -> Iterator[str]:
    """The layers beside the branch."""
    one, stride = facts.one, ["stride"] if facts.strides else []
    if facts.plain:
        return
    average = [facts.averages] if facts.asks_for_average else []
    projection = d.made("Projection", "in_channels", facts.out, *stride, *average)
    yield from branches(
        [
            (facts.projects, f"self.shortcut = {projection}"),
            (facts.subsamples, f"self.shortcut = Subsample({facts.subsample_arguments})"),
            (ALWAYS, f"self.shortcut = {d.identity}"),
        ]
    )
    if one.shortcut_dropout is not None:
        yield f"self.dropout = {d.made(d.dropout, number(one.shortcut_dropout.rate))}"
    if one.gate is not None:
        layer, given = d.conv(
            one.gate, ("in_channels", facts.out), "stride" if facts.strides else "1", "1"
        )
        yield f"self.gate = {d.made(layer, *given)}"


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


def _forward(facts: Facts, d: Dialect) -> Iterator[str]:
    """What a block computes, in the plan's order (`shared.architecture.graph`)."""
    one, last = facts.one, len(facts.one.convs)
    x = "x"
    if facts.preact != NEVER:
        normed = one.order == "full_pre"
        active = f"{d.relu}(self.norm1(x))" if normed else f"{d.relu}(x)"
        if facts.preact != ALWAYS:
            active += " if self.norm1 is not None else x" if normed else " if self.preact else x"
        yield f"preact = {active}"
        x = "preact"
    source = {ALWAYS: x, NEVER: "x"}.get(facts.shares, "preact if self.shortcut_preact else x")
    source = source if facts.preact != NEVER else "x"
    if not facts.plain:
        yield f"shortcut = self.shortcut({source})"
    if one.shortcut_dropout is not None:
        yield "shortcut = self.dropout(shortcut)"
    if one.gate is not None:
        yield f"gate = {d.sigmoid}(self.gate({source}))"
    for k in range(1, last + 1):
        drops = k == last and one.dropout is not None
        if one.order == "full_pre":
            value = x if k == 1 else f"{d.relu}(self.norm{k}(x))"
            value = f"self.inner_dropout({value})" if drops else value
            yield f"x = self.conv{k}({value})"
        else:
            value = f"self.inner_dropout({x})" if drops else x
            value = f"self.anti_alias({x})" if k == last and facts.anti_aliases != NEVER else value
            value = f"self.conv{k}({value})"
            if k < last or one.order != "norm_after_add":
                value = f"self.norm{k}({value})"
            if k < last or one.order == "act_before_add":
                value = f"{d.relu}({value})"
            yield f"x = {value}"
        x = "x"
    joined = facts.joined
    if one.order == "norm_after_add":
        joined = f"self.norm{last}({joined})"
    if one.order in ("post", "norm_after_add"):
        joined = f"{d.relu}({joined})"
    yield f"return {joined}"


def _projection(facts: Facts, d: Dialect) -> Iterator[str]:
    base, pool, steps = d.projection(facts)
    yield from _class("Projection", base, facts.about_projection)
    stride = ["stride: int"] if facts.strides else []
    average = ["average: bool"] if facts.asks_for_average else []
    numbers = ["in_channels: int", "out_channels: int", *stride, *average]
    yield from call("def __init__(", ["self", *numbers, *d.key], "):", 1)
    yield from indented([*d.starts, *pool], 2)
    conv_stride = "stride" if facts.strides and facts.averages == NEVER else "1"
    channels = ("in_channels", "out_channels")
    yield from d.conv_lines(facts.projection_conv, "conv", channels, conv_stride)
    if facts.projection.norm is not None:
        yield f"        self.norm = {d.made(d.norm, 'out_channels')}"
    if steps:
        yield from _method(d, steps)


def average_condition(facts: Facts) -> str:
    """Whether a projection has a pool, inside of the class."""
    return "average" if facts.asks_for_average else facts.averages


def _stem(facts: Facts, d: Dialect) -> Iterator[str]:
    stem = facts.plan.stem
    yield from _class("Stem", d.module, facts.about_stem)
    yield f"    def __init__({', '.join(['self', *d.key])}):"
    yield from indented(d.starts, 2)
    steps: list[str] = []
    if stem.input_norm is not None:
        yield from indented(d.input_norm(stem.input_norm), 2)
        steps.append("x = self.input_norm(x)")
    for k, (conv, norm) in enumerate(zip(stem.convs, stem.norms, strict=True), 1):
        channels = (str(conv.in_channels), str(conv.out_channels))
        lines = d.conv_lines(conv, f"conv{k}", channels, str(conv.stride))
        yield from facts.with_shape(lines, f"stem.conv{k}", first=d.first)
        value = f"self.conv{k}(x)"
        if norm is not None:
            yield f"        self.norm{k} = {d.made(d.norm, str(norm.channels))}"
            value = f"{d.relu}(self.norm{k}({value}))"
        steps.append(f"x = {value}")
    if stem.pool is not None:
        layer, value = d.stem_pool(stem.pool)
        if layer:
            lines = [f"        self.pool = {layer}"]
            yield from facts.with_shape(lines, "stem.pool", first=d.first)
        steps.append(f"x = {value}")
    if stem.anti_alias is not None:
        layer = d.anti_alias[BlurPool].replace("stride", str(stem.anti_alias.stride))
        lines = [f"        self.anti_alias = {layer}"]
        yield from facts.with_shape(lines, "stem.anti_alias", first=d.first)
        steps.append("x = self.anti_alias(x)")
    yield from _method(d, steps)


def _net(facts: Facts, d: Dialect) -> Iterator[str]:
    plan, spec = facts.plan, facts.spec
    yield from _class("ResNet", d.module, facts.about_net(d.layout))
    yield f"    def __init__({', '.join(['self', *d.key])}):"
    yield from indented([*d.starts, f"self.stem = {d.made('Stem')}"], 2)
    yield f"        self.stages = {d.stages}"
    if d.listed:
        yield "            ["
    for i, stage in enumerate(plan.stages):
        last = f"stages.{i}.blocks.{len(stage) - 1}"
        blocks = []
        for block, count in facts.runs(stage):
            numbers = [str(block.convs[0].in_channels), *facts.values(block)]
            one = d.made(facts.kind, *numbers)
            blocks.append(f"{one}," if count == 1 else f"*({one} for _ in range({count})),")
        shape = facts.shown_shape(last, first=d.first)
        yield from indented([f"Stage(  # {shape}", *indented(blocks), "),"], 3 + d.listed)
    if d.listed:
        yield "            ]"
    yield "        )"
    features = str(spec.widths[-1] * spec.expansion)
    steps, x = ["x = self.stem(x)", *d.over_stages], "x"
    if plan.final_norm is not None:
        yield f"        self.final_norm = {d.made(d.norm, features)}"
    if plan.final_act:
        value = "self.final_norm(x)" if plan.final_norm is not None else "x"
        steps.append(f"x = {d.relu}({value})")
    if plan.pool is not None:
        layer, value = d.global_pool[plan.pool.mode]
        if layer:
            yield f"        self.pool = {layer}"
        steps.append(f"x = {value}")
        if not layer and plan.head is not None:  # an operator more on the classifier's line
            x = steps.pop().removeprefix("x = ")
    if plan.head is not None:
        line = f"        self.head = {d.made(d.linear, features, str(plan.head.out_features))}"
        yield from facts.with_shape([line], "head", first=d.first)
        steps.append(f"x = self.head({x})")
    if not steps[-1].startswith("x = "):
        steps.append("return x")
    yield from _method(d, steps)


__all__ = ["STRIDES", "Dialect", "average_condition", "branches", "classes"]
