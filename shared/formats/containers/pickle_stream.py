"""The machine for pickles of arrays, whose numbers are inside the pickle itself: it goes through a
file, and leaves long bytes and texts where they are.

Also the opcodes of protocols 0 and 1, whose arguments are lines of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, BinaryIO

from shared.formats.containers.pickle_arrays import ESCAPED_TEXT, LITERAL, PLAIN, UTF_8, Raw
from shared.formats.containers.pickle_machine import BY_CODE, Machine
from shared.formats.containers.pickle_values import Budget, Constructor, PickleRefused

SHORT = 1 << 10  # bytes; longer ones stay in the file
_WINDOW = 1 << 16
_MAX_LINE = 1 << 8  # bytes of a number
_MAX_TEXTS = 1 << 30  # bytes of long texts, each of which is looked at once
_NUMBER = re.compile(rb"-?[0-9]{1,20}")
_FLOAT = re.compile(rb"-?[0-9.]{1,40}(?:e[-+]?[0-9]{1,4})?|-?inf|nan")


class StreamMachine(Machine):
    """`Machine` for the pickle from `start` to the end of a file, of protocol 0 to 5."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        super().__init__(b"")
        self._file, self._end, self.position = file, size, start
        self._window_start = start
        self._codes = _CODES
        self._texts = _MAX_TEXTS

    def _begin(self) -> None:
        if self._peek() != 0x80:
            return  # protocols 0 and 1 do not say which they are
        super()._begin()

    # Bytes.

    def _peek(self) -> int:
        value = self._byte()
        self.position -= 1
        return value

    def _byte(self) -> int:
        at = self.position - self._window_start
        if not 0 <= at < len(self._data):
            self._fill(1)
            at = 0
        self.position += 1
        return self._data[at]

    def _fill(self, count: int) -> None:
        """Let the window start here, and have this many bytes."""
        self._need(count)
        self._file.seek(self.position)
        self._data = self._file.read(max(count, _WINDOW))
        self._window_start = self.position
        if len(self._data) < count:
            raise PickleRefused(_CUT)

    def _need(self, count: int) -> None:
        if count > self._end - self.position:
            raise PickleRefused(_CUT)

    def _take(self, count: int) -> bytes:
        if count > _WINDOW:  # frames, names and numbers are shorter
            raise PickleRefused(
                f"its pickle has a text of {count:,} bytes where a short one belongs"
            )
        at = self.position - self._window_start
        if at < 0 or at + count > len(self._data):
            self._fill(count)
            at = 0
        self.position += count
        return self._data[at : at + count]

    def _line(self) -> str:
        line = self._short_line()
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            raise PickleRefused("its pickle has a global whose name is not UTF-8") from None

    def _short_line(self, limit: int = _MAX_LINE) -> bytes:
        at = self.position - self._window_start
        end = self._data.find(b"\n", at, at + limit) if at >= 0 else -1
        if end < 0:
            self._fill(1)
            at, end = 0, self._data.find(b"\n", 0, limit)
        if end < 0:
            raise PickleRefused("its pickle has a line of text that does not end")
        self.position += end + 1 - at
        return self._data[at:end]

    # Long bytes and texts.

    def _bytes(self, count: int) -> None:
        if count <= SHORT:
            self._push(self._take(count))
        else:
            self._push(self._raw(count, PLAIN, count))

    def _raw(self, count: int, form: str, length: int) -> Raw:
        self._need(count)
        start = self.position
        self.position += count
        return Raw(start, self.position, form, length)

    def _text(self, count: int) -> None:
        """A text, which may be the bytes of an array, one character each."""
        if count <= SHORT:
            self._push(self._decoded(self._take(count)))
            return
        self._need(count)
        self._texts -= count
        if self._texts < 0:
            raise PickleRefused(f"its pickle has more than {_MAX_TEXTS:,} bytes of texts")
        length = 0
        for piece in self._pieces(self.position, count):
            length += len(piece.translate(None, _CONTINUATIONS))  # of which characters have more
        self._push(self._raw(count, UTF_8, length))

    def _pieces(self, start: int, count: int) -> Any:
        self._file.seek(start)
        while count:
            piece = self._file.read(min(count, 1 << 20))
            if not piece:
                raise PickleRefused(_CUT)
            count -= len(piece)
            yield piece
        self._data, self._window_start = b"", self.position

    def _old_text(self, length: int) -> None:
        if length > SHORT:
            self._bytes(length)
        else:
            super()._old_text(length)

    @staticmethod
    def _decoded(raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise PickleRefused("its pickle has a text that is not UTF-8") from None

    # Protocols 0 and 1.

    def _number(self) -> None:
        line = self._short_line()
        if line in (b"00", b"01"):
            self._push(line == b"01")
        elif _NUMBER.fullmatch(line.removesuffix(b"L")):
            self._push(int(line.removesuffix(b"L")))
        else:
            raise PickleRefused(f"its pickle has the number {line[:40]!r}")

    def _float(self) -> None:
        line = self._short_line()
        if not _FLOAT.fullmatch(line):
            raise PickleRefused(f"its pickle has the number {line[:40]!r}")
        try:
            self._push(float(line))
        except ValueError:
            raise PickleRefused(f"its pickle has the number {line[:40]!r}") from None

    def _index(self) -> int:
        line = self._short_line()
        if not line.isdigit() or len(line) > 9:
            raise PickleRefused(f"its pickle numbers a value {line[:40]!r}")
        return int(line)

    def _line_text(self, form: str) -> None:
        """A line that is a text (`form`: how it is written), or the bytes of an array."""
        start = self.position
        count = self._distance()
        line = b"".join(self._pieces(start, count))
        self.position = start + count + 1
        begin = start
        if form == LITERAL:
            if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
                raise PickleRefused("its pickle has a text of Python 2 without quotes")
            line, begin = line[1:-1], start + 1
        raw = Raw(begin, begin + len(line), form, 0)
        try:
            if form == LITERAL:
                value = raw.decode(line)
                if len(line) > SHORT:
                    self._push(raw._replace(length=len(value)))
                    return
                try:
                    self._push(value.decode())
                except UnicodeDecodeError:
                    self._push(value)
                return
            text = line.decode("raw-unicode-escape")
        except (UnicodeDecodeError, ValueError):
            raise PickleRefused("its pickle has a text with escapes that mean nothing") from None
        self._push(raw._replace(length=len(text)) if len(line) > SHORT else text)

    def _distance(self) -> int:
        """Bytes to the end of the line."""
        self._file.seek(self.position)
        count = 0
        while count < self._end - self.position:
            piece = self._file.read(1 << 20)
            at = piece.find(b"\n")
            if at >= 0:
                count += at
                self._texts -= count
                if self._texts < 0:
                    raise PickleRefused(f"its pickle has more than {_MAX_TEXTS:,} bytes of texts")
                return count
            if not piece:
                break
            count += len(piece)
        raise PickleRefused(_CUT)

    def _dict(self) -> None:
        items = self._since_mark()
        self._push({})
        self._set_items(items)

    def _global(self, module: Any, name: Any) -> None:
        if (module, name) == ("_codecs", "encode"):
            self._push(_ENCODE)
        else:
            super()._global(module, name)


def _encode(budget: Budget, arguments: tuple) -> Any:
    """_codecs.encode, by which protocols 0 to 2 write bytes of Python 3, of a long text, too."""
    match arguments:
        case (Raw(form=form) as raw, "latin1" | "latin-1") if form in (UTF_8, ESCAPED_TEXT):
            return raw
        case ("", "latin1" | "latin-1"):
            return b""
        case (str() as text, "latin1" | "latin-1"):
            budget.spend(1 + len(text) // SHORT)
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                pass
    raise PickleRefused("its pickle has bytes that are not written as Latin-1")


_ENCODE = Constructor(_encode)
_CUT = "its pickle is cut short"
_CONTINUATIONS = bytes(range(0x80, 0xC0))  # of UTF-8
_MORE: dict[bytes, Callable[[StreamMachine], None]] = {
    b"I": StreamMachine._number,
    b"L": StreamMachine._number,
    b"F": StreamMachine._float,
    b"S": lambda m: m._line_text(LITERAL),
    b"V": lambda m: m._line_text(ESCAPED_TEXT),
    b"d": StreamMachine._dict,
    b"l": lambda m: m._push(m._since_mark()),
    b"p": lambda m: m._memoize(m._index()),
    b"g": lambda m: m._get(m._index()),
    b"T": lambda m: m._old_text(m._integer(4)),
    b"X": lambda m: m._text(m._integer(4)),
    b"\x8d": lambda m: m._text(m._integer(8)),
    b"B": lambda m: m._bytes(m._integer(4)),
    b"\x8e": lambda m: m._bytes(m._integer(8)),
    b"\x96": lambda m: m._bytes(m._integer(8)),
}
_CODES: dict[int, Callable[[Any], None]] = {
    **BY_CODE,
    **{code[0]: operation for code, operation in _MORE.items()},
}
_CODES.pop(ord("Q"))  # what lies outside of a pickle of arrays is not there
