"""The nested dicts of Flax as flat tables of `a/b/c`, and back.

What msgpack and Orbax checkpoints share.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.formats.containers import spans
from shared.formats.containers.archive import Archive, Entry

MAX_DEPTH = 64
MAX_PATH = (
    512  # characters of a tensor's name; a deep tree would otherwise repeat its keys without bound
)

_COLLECTIONS = ("params", "batch_stats")
_STATE = (
    "opt_state",
    "optimizer",
    "ema_params",
    "ema_batch_stats",
)  # of the training, at the top of a checkpoint
_LEVELS = ("default", "model")  # the item of Orbax's CheckpointManager, and what people call theirs


def model_part(
    container: str, entries: Mapping[str, Entry], metadata: Mapping[str, str]
) -> Archive:
    """The archive of what a model needs, of all that was found in a checkpoint.

    Of a `TrainState` or of variables (there is a level `params`) the collections `params` and
    `batch_stats` are kept; a level that holds all is taken off. `stripped_prefixes` names
    both. NNX's last level `value` is no part of a name.
    """
    kept, stripped_prefixes = dict(entries), []
    while level := next(
        (level for level in _LEVELS if kept and all(n.startswith(f"{level}/") for n in kept)), None
    ):
        kept = {name.removeprefix(f"{level}/"): entry for name, entry in kept.items()}
        stripped_prefixes.append(f"prefix '{level}/'")
    metadata = dict(metadata)
    if (step := kept.get("step")) is not None and not step.shape:
        metadata["step"] = str(kept.pop("step").load())  # an array when JAX counted it
    linen = any(name.startswith("params/") for name in kept)
    tops = dict.fromkeys(name.partition("/")[0] for name in kept)
    dropped = [top for top in tops if (top not in _COLLECTIONS if linen else top in _STATE)]
    kept = {name: entry for name, entry in kept.items() if name.partition("/")[0] not in dropped}
    metadata = {
        name: value for name, value in metadata.items() if name.partition("/")[0] not in _STATE
    }
    named = [
        top if top.isidentifier() and top.isascii() and len(top) <= 80 else spans.shown(top)
        for top in dropped
    ]
    stripped_prefixes += [f"also holds {top}" for top in named[:8]]
    if kept and all(name.endswith("/value") for name in kept):
        kept = {name.removesuffix("/value"): entry for name, entry in kept.items()}
        stripped_prefixes.append("suffix '/value'")
    return Archive(container, kept, metadata, tuple(stripped_prefixes))


def nested(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of `a/b/c`, with the same leaves; for writing to `path`, and therefore one
    that is read back.
    """
    tree: dict[str, Any] = {}
    for name, leaf in entries.items():
        spans.encoded(path, name)
        *parents, last = name.split("/")
        if len(parents) >= MAX_DEPTH or len(name) > MAX_PATH:
            raise spans.cannot_write(
                path, f"{spans.shown(name)} is nested deeper than is read back"
            )
        level: Any = tree
        for parent in parents:
            level = level.setdefault(parent, {})
            if not isinstance(level, dict):
                raise spans.cannot_write(path, f"{spans.shown(name)} goes through a tensor")
        if level.setdefault(last, leaf) is not leaf:
            raise spans.cannot_write(
                path, f"{spans.shown(name)} is a tensor and a group of tensors"
            )
    return tree
