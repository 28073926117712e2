"""ATen operators as primitives: convolutions, norms, pools and matrix products."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from resnet_torch.aten import Arguments, AtenReader, Rule, Value, concrete, shape_of, two


def _conv(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    if a.get("transposed") or len(shape_of(a["input"])) != 4:
        return None
    padding, dilation = a["padding"], two(a["dilation"])
    if isinstance(padding, str):
        kernel = shape_of(a["weight"])[2:]
        reach = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        pads = tuple((n // 2, n - n // 2) for n in reach)
    else:
        pads = tuple((p, p) for p in two(padding))
    ins = [a["input"], a["weight"], *([a["bias"]] if a["bias"] is not None else [])]
    layout = {"x": "NCHW", "w": "OIHW", "y": "NCHW"}
    how = {"strides": two(a["stride"]), "dilation": dilation, "groups": a["groups"], "pads": pads}
    return r.add("conv", *ins, **layout, **how)


def _batch_norm(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    given = [a.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    training = a.get("training", a.get("use_input_stats", False)) or given[2] is None
    ins = [x for x in given if x is not None]
    slots = tuple(x is not None for x in given)
    how = {"eps": a["eps"], "momentum": a["momentum"], "training": bool(training)}
    return r.add("bn", a["input"], *ins, slots=slots, axis=1, **how)


def _group_norm(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    given = [a["weight"], a["bias"]]
    ins = [x for x in given if x is not None]
    groups = a.get("num_groups", a.get("group"))
    slots = tuple(x is not None for x in given)
    return r.add("gn", a["input"], *ins, slots=slots, groups=groups, eps=a["eps"], axis=1)


def _instance_norm(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    if not a["use_input_stats"]:
        return _batch_norm(r, node, a)
    return _group_norm(r, node, a | {"num_groups": shape_of(a["input"])[1]})


def _output_size(node: Node) -> tuple[int, ...]:
    value = node.meta["val"]
    value = value[0] if isinstance(value, (list, tuple)) else value
    return tuple(concrete(n) for n in value.shape)[2:]


def _window(node: Node, a: Arguments) -> dict[str, Any] | None:
    """Window, strides and pads, with what ceil_mode adds at the end."""
    if len(shape_of(a["self"])) != 4:
        return None
    window = two(a["kernel_size"])
    strides = two(a["stride"]) if a["stride"] else window
    padding, dilation = two(a["padding"]), two(a.get("dilation", 1))
    image, out = shape_of(a["self"])[2:], _output_size(node)
    pads = []
    for k in range(2):
        needed = (out[k] - 1) * strides[k] + (window[k] - 1) * dilation[k] + 1
        pads.append((padding[k], max(needed - image[k] - padding[k], padding[k])))
    return {"layout": "NCHW", "window": window, "strides": strides, "pads": tuple(pads)}


def _max_pool(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    how = _window(node, a)
    if how is None:
        return None
    found = r.add("maxpool", a["self"], dilation=two(a["dilation"]), **how)
    return [found, found] if isinstance(node.meta["val"], (list, tuple)) else found


def _avg_pool(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    how = _window(node, a)
    if how is None:
        return None
    count_pad, divisor = bool(a["count_include_pad"]), a["divisor_override"]
    counted = tuple((p, p) for p in two(a["padding"]))
    extra = {"count_pad": count_pad, "divisor": divisor, "counted": counted}
    return r.add("avgpool", a["self"], **how, **extra)


def _adaptive(op: str) -> Rule:
    def rule(r: AtenReader, node: Node, a: Arguments) -> Value | None:
        image, out = shape_of(a["self"])[2:], _output_size(node)
        several = isinstance(node.meta["val"], (list, tuple))
        if out == (1, 1):
            found = r.add("reduce", a["self"], op=op, axes=(2, 3), keepdims=True)
            return [found, found] if several else found
        return r.id_of(a["self"]) if out == image and not several else None

    return rule


def _linear(r: AtenReader, node: Node, a: Arguments) -> Value:
    y = r.add("dot", a["input"], a["weight"], lhs=(len(shape_of(a["input"])) - 1,), rhs=(1,))
    return y if a["bias"] is None else r.ew("add", y, a["bias"])


def _addmm(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    if a["alpha"] != 1 or a["beta"] != 1:
        return None
    y = r.add("dot", a["mat1"], a["mat2"], lhs=(1,), rhs=(0,))
    return r.ew("add", y, a["self"])


def _matmul(r: AtenReader, node: Node, a: Arguments) -> Value | None:
    left, right = a["self"], a["mat2"] if "mat2" in a else a["other"]
    m, n = len(shape_of(left)), len(shape_of(right))
    if n == 2:
        return r.add("dot", left, right, lhs=(m - 1,), rhs=(0,))
    if m == n and shape_of(left)[:-2] == shape_of(right)[:-2]:
        batch = tuple(range(m - 2))
        axes = {"lhs": (m - 1,), "rhs": (n - 2,), "lhs_batch": batch, "rhs_batch": batch}
        return r.add("dot", left, right, **axes)
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv2d", "convolution"), _conv),
    **dict.fromkeys(
        (
            "batch_norm",
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_functional",
            "_native_batch_norm_legit_no_training",
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    "instance_norm": _instance_norm,
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices"), _max_pool),
    "avg_pool2d": _avg_pool,
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive("mean")),
    "adaptive_max_pool2d": _adaptive("max"),
    "linear": _linear,
    "addmm": _addmm,
    **dict.fromkeys(("mm", "matmul", "bmm"), _matmul),
}
