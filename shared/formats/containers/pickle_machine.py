"""A machine for the pickles inside PyTorch checkpoints that can build nothing but inert values.

Python's own unpickler imports and calls whatever a file names. This one knows the opcodes that
`torch.save` writes (protocols 2 to 5) and the globals of `pickle_values` and `pickle_arrays`; an
object of any other program becomes one of `pickle_objects`, which keeps what a pickle says of it.
What comes out is made of dict, list, tuple, str, bytes, int, float, bool, None and the classes of
those modules.

A pickle may share values, so what it builds may be exponentially larger than the file, or cyclic.
Nothing here walks, hashes, compares or prints a container, and no caller may.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from shared.formats.containers.pickle_arrays import ARRAY_GLOBALS, NumpyArray, set_state
from shared.formats.containers.pickle_objects import (
    InertClass,
    InertFunction,
    InertObject,
    InertSet,
    named,
    why_not,
)
from shared.formats.containers.pickle_values import (
    GLOBALS,
    NAMESPACE,
    Budget,
    Constructor,
    InertNamespace,
    InertOrderedDict,
    NumpyDtype,
    Opaque,
    PickleRefused,
    Storage,
    StorageType,
    make_object,
    put,
)
from shared.formats.containers.spans import shown

MAX_PICKLE = 16 << 20  # bytes
MAX_OPERATIONS = (
    3 << 18
)  # of all pickles of a file; a ResNet of 1,202 layers and its momenta take about 350,000
_MAX_COPIES = 1 << 18
_MAX_MARKS = 1 << 10  # containers open at a time
_MAX_INTEGER = 255  # bytes; the magic number of PyTorch has ten


class Machine:
    """Runs the pickles in `data` one after the other; `load` returns the next value and moves
    `position` past it.

    `storages` collects what the values refer to. Raises `PickleRefused`, whatever the bytes are.
    """

    def __init__(self, data: bytes):
        self.position = 0
        self.storages: dict[str, Storage] = {}
        self._data, self._end, self._codes = data, len(data), BY_CODE
        self._operations = MAX_OPERATIONS
        self._budget = Budget(_MAX_COPIES)
        self._reset()

    def _reset(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._floor = 0  # values below belong to containers that are still open
        self._memo: dict[int, Any] = {}

    def _begin(self) -> None:
        if self._byte() != 0x80 or not 2 <= self._byte() <= 5:
            raise PickleRefused("its pickle is not of protocol 2 to 5")

    def load(self) -> Any:
        self._reset()
        self._begin()
        codes = self._codes
        while (code := self._byte()) != _STOP:
            self._operations -= 1
            if self._operations < 0:
                raise PickleRefused(
                    f"its pickle has more than {MAX_OPERATIONS:,} operations; no state dict needs "
                    "them"
                )
            operation = codes.get(code)
            if operation is None:
                name = _REFUSED_OPCODES.get(code, f"0x{code:02x}")
                raise PickleRefused(
                    f"its pickle has the opcode {name} at byte {self.position - 1}, which no state "
                    "dict needs; nothing was run"
                )
            operation(self)
        if len(self._stack) != 1 or self._marks:
            raise PickleRefused("its pickle does not end with exactly one value")
        value = self._stack[0]
        self._reset()
        return value

    # Bytes.

    def _byte(self) -> int:
        position = self.position
        if position >= self._end:
            raise PickleRefused(_TOO_SHORT)
        self.position = position + 1
        return self._data[position]

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > self._end:
            raise PickleRefused(_TOO_SHORT)
        chunk = self._data[self.position : end]
        self.position = end
        return chunk

    def _integer(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, self.position + 256)
        if end < 0:
            raise PickleRefused("its pickle has a global whose name does not end")
        line = self._take(end - self.position)
        self.position += 1
        return _decode(line)

    # Stack.

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor:
            raise PickleRefused(_NEVER_PUT)
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= self._floor:
            raise PickleRefused(_NEVER_PUT)
        return self._stack[-1]

    def _mark(self) -> None:
        if len(self._marks) == _MAX_MARKS:
            raise PickleRefused(f"its pickle nests values more than {_MAX_MARKS} deep")
        self._floor = len(self._stack)
        self._marks.append(self._floor)

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleRefused("its pickle closes a container that it never opened")
        start = self._marks.pop()
        self._floor = self._marks[-1] if self._marks else 0
        items = self._stack[start:]
        del self._stack[start:]
        return items

    # Operations.

    def _frame(self) -> None:
        self._take(8)

    def _long(self, length: int) -> None:
        if length > _MAX_INTEGER:
            raise PickleRefused(f"its pickle has an integer of {length:,} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _old_text(self, length: int) -> None:
        raw = self._take(length)  # a str of Python 2: text, or the bytes of a NumPy scalar
        try:
            self._push(raw.decode())
        except UnicodeDecodeError:
            self._push(raw)

    def _tuple(self, count: int) -> None:
        start = len(self._stack) - count
        if start < self._floor:
            raise PickleRefused(_NEVER_PUT)
        self._stack[start:] = [tuple(self._stack[start:])]

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is InertObject:
            start = len(target)
            target.update({start + number: item for number, item in enumerate(items)})
            return
        if type(target) is not list:
            raise PickleRefused("its pickle appends to something that is not a list")
        target.extend(items)

    def _add_items(self) -> None:
        items, target = self._since_mark(), self._top()
        if type(target) is not InertSet:
            raise PickleRefused("its pickle adds to something that is not a set")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleRefused("its pickle sets an item of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            put(target, key, value)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append_one(self) -> None:
        value = self._pop()
        self._append([value])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise PickleRefused("its pickle repeats a value that it has not named")
        self._push(self._memo[index])

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._top()

    def _global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise PickleRefused("its pickle names a global by something that is not a text")
        found = ARRAY_GLOBALS.get((module, name)) or GLOBALS.get((module, name))
        found = found or named(module, name)
        if found is None:
            raise PickleRefused(why_not(module, name))
        self._push(found)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(arguments) is tuple:
            if type(function) is Constructor:
                self._push(function.make(self._budget, arguments))
                return
            if type(function) is InertClass:
                self._push(make_object(self._budget, function, arguments))
                return
            if type(function) is InertFunction:
                raise PickleRefused(why_not(*function))
        raise PickleRefused("its pickle calls something that cannot be called; nothing was run")

    def _new(self) -> None:
        arguments, constructor = self._pop(), self._pop()
        if type(constructor) is InertFunction:  # a class that is called like one
            constructor = InertClass(*constructor)
        if type(constructor) is InertClass and type(arguments) is tuple:
            self._push(make_object(self._budget, constructor, arguments))
            return
        if constructor is not NAMESPACE or type(arguments) is not tuple or arguments:
            raise PickleRefused(
                "its pickle makes an object of a class that no state dict needs; nothing was run"
            )
        self._push(InertNamespace())

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        kind = type(target)
        if kind is InertOrderedDict and isinstance(state, dict):
            return  # the `_metadata` of a state dict: versions of its modules
        if kind is Opaque:
            return
        if kind is NumpyArray and type(state) is tuple:
            set_state(target, state)
        elif kind is InertNamespace and isinstance(state, dict):
            self._budget.spend(len(state))
            target.update(state)
        elif kind is InertObject:
            # attributes and, of a class with slots, theirs; or what the class itself makes of it
            pair = state if type(state) is tuple and len(state) == 2 else (state,)
            plain = all(part is None or isinstance(part, dict) for part in pair)
            for part in pair if plain else ({"state": state},):
                self._budget.spend(len(part or ()))
                target.update(part or ())
        elif (
            kind is NumpyDtype and type(state) is tuple and len(state) > 1 and type(state[1]) is str
        ):
            target.order = state[1]
        else:
            raise PickleRefused(
                "its pickle sets the attributes of something that has none; nothing was run"
            )

    def _persistent(self) -> None:
        match self._pop():
            case ("module", InertClass() | InertFunction() as kind, str() | None, str() | None):
                self._push(
                    InertClass(kind.module, kind.name)
                )  # with its source, which nothing reads
                return
            case ("storage", StorageType() as kind, str() as key, str(), int() as numel, *view):
                if not view or (len(view) == 1 and view[0] is None):
                    storage = Storage(key, kind.dtype, numel)
                    if type(numel) is not int or not 0 <= numel < 1 << 60:
                        raise PickleRefused(
                            f"the storage {shown(key)} has an impossible number of elements"
                        )
                    if self.storages.setdefault(key, storage) != storage:
                        raise PickleRefused(
                            f"the storage {shown(key)} is described twice, differently"
                        )
                    self._push(storage)
                    return
                raise PickleRefused(
                    "its storages are views of one another, as before PyTorch 0.4; "
                    "load it with PyTorch and save it again"
                )
        raise PickleRefused("its pickle refers to something outside it that is not a storage")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise PickleRefused("its pickle has a text that is not UTF-8") from None


_STOP = ord(".")
_TOO_SHORT = f"its pickle is cut short, or longer than {MAX_PICKLE >> 20} MiB"
_NEVER_PUT = "its pickle takes a value that was never put"
_REFUSED_OPCODES = {
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("P"): "PERSID",
    ord("0"): "POP",
    ord("1"): "POP_MARK",
    ord("2"): "DUP",
    0x80: "PROTO",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
}
_OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x95": Machine._frame,  # FRAME, a hint for readers of streams
    b"(": Machine._mark,
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"J": lambda m: m._push(int.from_bytes(m._take(4), "little", signed=True)),
    b"K": lambda m: m._push(m._byte()),
    b"M": lambda m: m._push(m._integer(2)),
    b"\x8a": lambda m: m._long(m._byte()),
    b"\x8b": lambda m: m._long(m._integer(4)),
    b"G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    b"U": lambda m: m._old_text(m._byte()),
    b"T": lambda m: m._old_text(m._integer(4)),
    b"\x8c": lambda m: m._push(_decode(m._take(m._byte()))),
    b"X": lambda m: m._push(_decode(m._take(m._integer(4)))),
    b"\x8d": lambda m: m._push(_decode(m._take(m._integer(8)))),
    b"C": lambda m: m._push(m._take(m._byte())),
    b"B": lambda m: m._push(m._take(m._integer(4))),
    b"\x8e": lambda m: m._push(m._take(m._integer(8))),
    b")": lambda m: m._push(()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": lambda m: m._push(tuple(m._since_mark())),
    b"]": lambda m: m._push([]),
    b"a": Machine._append_one,
    b"e": lambda m: m._append(m._since_mark()),
    b"}": lambda m: m._push({}),
    b"\x8f": lambda m: m._push(InertSet()),
    b"\x90": Machine._add_items,
    b"\x91": lambda m: m._push(InertSet(m._since_mark())),
    b"s": Machine._set_item,
    b"u": lambda m: m._set_items(m._since_mark()),
    b"q": lambda m: m._memoize(m._byte()),
    b"r": lambda m: m._memoize(m._integer(4)),
    b"\x94": lambda m: m._memoize(len(m._memo)),
    b"h": lambda m: m._get(m._byte()),
    b"j": lambda m: m._get(m._integer(4)),
    b"c": lambda m: m._global(m._line(), m._line()),
    b"\x93": Machine._stack_global,
    b"R": Machine._call,
    b"\x81": Machine._new,
    b"b": Machine._build,
    b"Q": Machine._persistent,
}
BY_CODE = {code[0]: operation for code, operation in _OPERATIONS.items()}
