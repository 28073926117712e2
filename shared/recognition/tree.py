"""The tree of a file's layers, by the words of their names, in natural order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from shared.recognition.layers import Layer
from shared.recognition.names import Words, pieces_of


@dataclass(eq=False)
class Node:
    """A word of names, the layers that are called by it, and the words that follow."""

    path: Words
    layers: list[Layer] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    convs: int = 0  # in all of it
    by_word: dict[str, Node] = field(default_factory=dict)

    def walk(self) -> Iterator[Layer]:
        """Every layer, in natural order."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield from node.layers
            pending += reversed(node.children)


def make_tree(layers: Iterable[Layer]) -> Node:
    """The tree, its children in natural order: numbers by their size, single letters by the
    alphabet, other words as the file has them.
    """
    root = Node(())
    nodes = [root]
    for layer in layers:
        node = root
        for depth, word in enumerate(layer.words, 1):
            child = node.by_word.get(word)
            if child is None:
                child = node.by_word[word] = Node(layer.words[:depth])
                nodes.append(child)
            node = child
        node.layers.append(layer)
    for node in reversed(nodes):  # children come behind their parents
        node.children = list(node.by_word.values())
        if len(node.children) > 1:
            node.children.sort(key=_order(list(node.by_word)))
        node.convs = sum(layer.kind == "conv" for layer in node.layers)
        node.convs += sum(child.convs for child in node.children)
    return root


def _order(words: list[str]) -> Callable[[Node], list[tuple[int, int]]]:
    """A key for siblings. Texts have the rank of their first appearance at their place."""
    ranks: dict[tuple[int, str], int] = {}
    for word in words:
        for i, piece in enumerate(pieces_of(word)):
            if isinstance(piece, str):
                ranks.setdefault((i, piece), len(ranks))

    def key(node: Node) -> list[tuple[int, int]]:
        return [
            (0, piece)
            if isinstance(piece, int)
            else (1, ord(piece))
            if len(piece) == 1
            else (2, ranks[i, piece])
            for i, piece in enumerate(pieces_of(node.path[-1]))
        ]

    return key
