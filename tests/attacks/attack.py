"""`Attack`: how a hostile file is made, and what must be said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

SECRET = b"\x3f\x9d\x4c\xc1" * 4  # in the file outside; as float32 finite, and in no tensor of ours


class Placement(NamedTuple):
    """Where an attack lives: its files in `inside`; `outside` is what no reader may touch."""

    inside: Path
    outside: Path

    @classmethod
    def make(cls, folder: Path) -> Placement:
        place = cls(folder / "inside", folder / "outside")
        for path in place:
            path.mkdir(parents=True)
        place.secret.write_bytes(SECRET * 1024)
        return place

    @property
    def secret(self) -> Path:
        """A file that a link of the attack may lead to."""
        return self.outside / "secret.bin"

    @property
    def executed(self) -> Path:
        """What the code in an attack makes, if it runs."""
        return self.outside / "executed"

    @property
    def command(self) -> str:
        return f"touch {self.executed}"

    def write(self, name: str, data: bytes) -> Path:
        path = self.inside / name
        path.write_bytes(data)
        return path


Make = Callable[[Placement], Path]


class Attack(NamedTuple):
    """`make` writes the files and says which path to open; the error must hold every one of
    `words`.
    """

    name: str
    make: Make
    words: tuple[str, ...]


def attacks(prefix: str, table: Mapping[str, tuple[Make, str]]) -> list[Attack]:
    """The attacks of a table: name -> (make, words that a bar separates)."""
    return [
        Attack(f"{prefix}-{name}", make, tuple(words.split("|")))
        for name, (make, words) in table.items()
    ]
