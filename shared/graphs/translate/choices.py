"""What every reader has to choose: which of several outputs is the network's, and at which size to
trace a model that does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import printable
from shared.graphs.primitives import RawGraph

LARGE, SMALL = 224, 32  # pixels a side: of ImageNet, and of CIFAR
_NAMES = ("logits", "classifier", "predictions", "prediction", "probabilities", "output")


def choose_output(
    names: Sequence[str], shapes: Sequence[Sequence[int] | None], graph: RawGraph
) -> int:
    """Which of a model's outputs is its result: the one that is called so, else the last matrix
    (of a tuple the first), else the last array. Of several, `graph` gets a remark.
    """
    if len(names) == 1:
        return 0
    leaves = [name.replace(".", "/").rpartition("/")[2].lower() for name in names]
    called = [leaves.index(name) for name in _NAMES if name in leaves]
    matrices = [k for k, shape in enumerate(shapes) if shape is not None and len(shape) == 2]
    place = 0 if all(leaf.isdigit() for leaf in leaves) else -1
    chosen = called[0] if called else matrices[place] if matrices else len(names) - 1
    named = [printable(name) or str(k) for k, name in enumerate(names)]
    graph.remarks.append(
        f"of its {len(names)} outputs ({', '.join(named[:6])}{' …' if len(names) > 6 else ''}), "
        f"{named[chosen]} is taken for the result"
    )
    return chosen


def is_for_small_images(graph: RawGraph) -> bool:
    """Whether the first convolution keeps the image's size, as networks for CIFAR do."""
    live = graph.live()
    convs = (node for node in graph.nodes if node.prim == "conv" and node.id in live)
    first = next(convs, None)
    return first is not None and tuple(first.attrs["strides"]) == (1, 1)


EVALUATION = {
    **dict.fromkeys(("train", "training", "is_training", "is_train", "train_mode"), False),
    **dict.fromkeys(("deterministic", "use_running_average", "inference", "eval_mode"), True),
}


def evaluation_arguments(parameters: Sequence[str]) -> dict[str, bool]:
    """Those of a function's parameters that say whether it trains, set so that it does not."""
    return {name: EVALUATION[name] for name in parameters if name in EVALUATION}


def computed_in(graph: RawGraph, dtype: str) -> str:
    """The narrowest float that what depends on the image is cast to."""
    from_image: set[int] = set()
    widths = {"float64": 3, "float32": 2, "bfloat16": 1, "float16": 1}
    for node in graph.nodes:
        if node.prim == "input" or from_image.intersection(node.ins):
            from_image.add(node.id)
            to = str(node.attrs.get("dtype")) if node.prim == "cast" else dtype
            if widths.get(to, 9) < widths[dtype]:
                dtype = to
    return dtype
