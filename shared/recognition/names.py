"""Names of tensors taken apart: what wrappers add to them, their words, and the order of words."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

# Parts that wrappers put into names, wherever they stand: DistributedDataParallel, torch.compile,
# FullyShardedDataParallel, activation checkpointing, DeepSpeed, pickled modules, Haiku.
_WRAPPERS = frozenset(
    (
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_modules",
        "_parameters",
        "_buffers",
        "~",
    )
)
# Collections that hold the parameters and the statistics of the same layers side by side, and what
# stands before or behind the word: `ema_params`, `online_state`.
_COLLECTION = re.compile(
    r"(?:(?P<before>\w+)_)??(?:params|batch_stats|model_state|state|variables)(?:_(?P<behind>\w+))?"
)
AVERAGED = "ExponentialMovingAverage"  # TensorFlow puts it behind the name of the variable
_ATTRIBUTE = "/.ATTRIBUTES/VARIABLE_VALUE"  # and this, where objects are saved
_PARTS = re.compile(r"[./]")
_WORDS = re.compile(r"[./_]+")
_PIECES = re.compile(r"\d+|\D+")
_LETTER = re.compile(r"(?<=\d)(?=[a-z]$)|(?<=\d)(?=[a-z]\d+$)")

Words = tuple[str, ...]


@functools.lru_cache(maxsize=1 << 15)
def parts_of(name: str) -> Words:
    """The parts of a name between dots and slashes, without those of wrappers.

    >>> parts_of("state_dict/module.layer1._orig_mod.0.conv1.weight")
    ('state_dict', 'layer1', '0', 'conv1', 'weight')
    """
    parts = [
        part for part in _PARTS.split(name.removesuffix(":0").removesuffix(_ATTRIBUTE)) if part
    ]
    if parts and parts[-1] == AVERAGED:
        parts = [AVERAGED, *parts[:-1]]
    return tuple(part for part in parts if part not in _WRAPPERS)


def without_collection(parts: Words) -> Words:
    """The parts without the collection, so that a layer's parameters and statistics meet.

    >>> without_collection(("ema_params", "conv", "kernel"))
    ('ema', 'conv', 'kernel')
    """
    found = []
    for part in parts[:-1]:
        match = None if part.endswith("_dict") else _COLLECTION.fullmatch(part)
        if match is None:
            found.append(part)
        else:
            found += [rest for rest in (match["before"], match["behind"]) if rest]
    return (*found, *parts[-1:])


def words_of(parts: Words) -> Words:
    """The words of a path, which underscores part, too: `('conv2_block1_1',)` has three."""
    return tuple(word for part in parts for word in _WORDS.split(part) if word)


@functools.lru_cache(maxsize=1 << 14)
def pieces_of(word: str) -> tuple[str | int, ...]:
    """Text and numbers of a word; a letter behind a number counts blocks: `res4b10`, `branch2a`.

    >>> pieces_of("res4b10")
    ('res', 4, 'b', 10)
    """
    return tuple(
        int(piece) if piece.isdecimal() else piece
        for part in _LETTER.split(word)
        for piece in _PIECES.findall(part)
    )


def pattern_of(words: Words) -> str:
    """What names have in common that differ in their numbers and single letters alone."""
    return " ".join(
        "".join("#" if isinstance(p, int) or len(p) == 1 else p for p in pieces_of(word))
        for word in words
    )


def shared(a: Words, b: Words) -> int:
    """How many first words two paths share."""
    differing = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differing, min(len(a), len(b)))


def common(paths: Sequence[Words]) -> Words:
    """The first words that all paths share; of a single path, all but the last."""
    if len(paths) < 2:
        return paths[0][:-1] if paths else ()
    first = min(paths, key=len)
    return first[: min(shared(first, path) for path in paths)]
