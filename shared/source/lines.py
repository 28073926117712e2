"""Lines of Python as `ruff format` leaves them: folded where they are too long."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

WIDTH = 100
INDENT = "    "


def call(start: str, arguments: Iterable[str], end: str = ")", depth: int = 0) -> list[str]:
    """`start` + arguments + `end` on one line, or the arguments on one line of their own, or each
    on one. `depth` counts levels of indentation.
    """
    given, margin = list(arguments), INDENT * depth
    whole = f"{margin}{start}{', '.join(given)}{end}"
    if len(whole) <= WIDTH:
        return [whole]
    head, call_again, last = end.partition(")(")
    first = f"{margin}{start}{', '.join(given)}{head}{call_again}"
    if call_again and len(first) <= WIDTH:  # of two calls in a row, the second is folded first
        return [first, f"{margin}{INDENT}{last[:-1]}", f"{margin})"]
    inner = f"{margin}{INDENT}{', '.join(given)}"
    if len(inner) <= WIDTH:
        return [margin + start, inner, margin + end]
    return [margin + start, *(f"{margin}{INDENT}{each}," for each in given), margin + end]


def number(value: float) -> str:
    """1e-5 rather than 1e-05."""
    return repr(value).replace("e-0", "e-")


def indented(lines: Iterable[str], depth: int = 1) -> list[str]:
    return [INDENT * depth + line if line else line for line in lines]


def joined(
    head: list[str], imports: Callable[[str], Iterable[str]], parts: Sequence[Sequence[str]]
) -> str:
    """The text of a file: its docstring, what the rest needs, classes and functions two blank
    lines apart.
    """
    body = "\n\n\n".join("\n".join(part) for part in parts)
    apart = "\n\n\n" if body.startswith(("class ", "def ", "@")) else "\n\n"
    return "\n".join([*head, "", *imports(body)]) + f"{apart}{body}\n"


def docstring(paragraphs: Sequence[str], depth: int = 0) -> list[str]:
    """A docstring of paragraphs, wrapped; one that begins with a blank stands as it is."""
    margin = INDENT * depth
    lines: list[str] = []
    for paragraph in paragraphs:
        if lines and not (paragraph.startswith("* ") and lines[-1].startswith(("* ", "  "))):
            lines.append("")
        if paragraph.startswith(" "):
            lines += paragraph.splitlines()
            continue
        hanging = "  " if paragraph.startswith("* ") else ""
        room = WIDTH - len(margin) - (3 if not lines else 0)
        lines += textwrap.wrap(
            paragraph,
            room,
            subsequent_indent=hanging,
            break_long_words=False,
            break_on_hyphens=False,
        )
    if len(lines) == 1 and len(margin) + len(lines[0]) + 6 <= WIDTH:
        return [f'{margin}"""{lines[0]}"""']
    return [
        f'{margin}"""{lines[0]}',
        *(margin + line if line else "" for line in lines[1:]),
        f'{margin}"""',
    ]
