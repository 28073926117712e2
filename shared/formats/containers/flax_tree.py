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

# At the top of a checkpoint, of the training: their numbers are no metadata of the network.
_STATE = ("opt_state", "optimizer", "ema_params", "ema_batch_stats")
_LEVELS = ("default", "model")  # the item of Orbax's CheckpointManager, and what people call theirs
_VALUE = "/value"


def whole_tree(
    container: str, entries: Mapping[str, Entry], metadata: Mapping[str, str]
) -> Archive:
    """The archive of all that was found in a checkpoint.

    A level that holds all is taken off, and so is NNX's last level `value`, where all layers have
    it; `stripped_prefixes` names both. The number of steps is metadata.
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
    metadata = {name: value for name, value in metadata.items() if not _of_training(name)}
    own = [name for name in kept if not _of_training(name)]
    if own and all(name.endswith(_VALUE) for name in own):
        kept = {name.removesuffix(_VALUE): entry for name, entry in kept.items()}
        stripped_prefixes.append(f"suffix '{_VALUE}'")
    return Archive(container, kept, metadata, tuple(stripped_prefixes))


def _of_training(name: str) -> bool:
    return name.partition("/")[0] in _STATE


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
