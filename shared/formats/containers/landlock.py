"""Linux' Landlock: this process may read in a few places from now on, and change nothing anywhere.

Source: docs.kernel.org/userspace-api/landlock.html. Kernels have it since 5.13, containers may hide
it, and other systems have none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every processor below
_PROCESSORS = ("x86_64", "aarch64", "ppc64le", "riscv64", "s390x", "loongarch64")
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # to files, that a version knows; 16 from the fifth on
_NETWORK = 0b11  # to bind and to connect TCP sockets, from version 4 on
_SCOPES = 0b11  # sockets without a file, and signals, to other processes; from version 6 on
_NO_NEW_PRIVILEGES = 38


def version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux" or platform.machine() not in _PROCESSORS:
        return 0
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def confine(places: Iterable[str | Path]) -> bool:
    """Let this thread, and those that it starts from now on, open for reading what is at or below
    `places`, and open nothing else; no program that it starts gains rights. For good.

    Whether the kernel does that; where it does not, nothing is restricted.
    """
    known = version()
    system = ctypes.CDLL(None)
    if not known or system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    handled = (1 << _RIGHTS.get(known, 16)) - 1
    fields = [handled, *([_NETWORK] if known >= 4 else []), *([_SCOPES] if known >= 6 else [])]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = system.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    try:
        for place in places:
            with contextlib.suppress(OSError):  # what is not there needs no rule
                _allow(system, ruleset, place)
        return system.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _allow(system: ctypes.CDLL, ruleset: int, place: str | Path) -> None:
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = _READ_FILE | (_READ_FOLDER if os.path.isdir(place) else 0)
        system.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)
