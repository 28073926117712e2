"""What a process may use of the machine that it runs on: the packages that are installed, and of
processors, memory and disk, in a container the container's share.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.errors import FrameworkError

_SYSTEM = Path("/")
# Names of the limit, of what is used and of the cache that is counted with it: version 2 and 1.
_MEMORY = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def missing_packages(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are not installed."""
    return tuple(name for name in names if importlib.util.find_spec(name) is None)


def require_packages(what: str, extra: str, *names: str) -> None:
    """Raise `FrameworkError` where `what` needs a package of `resnet-rosetta[extra]` that is not
    installed.
    """
    missing = missing_packages(names)
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise FrameworkError(
            f"{what} needs {' and '.join(missing)}, which {are} not installed; "
            f"pip install 'resnet-rosetta[{extra}]'"
        )


def processors(root: Path = _SYSTEM) -> int:
    """How many processors this process may use: of those that it may run on, as many as its
    container pays for, a part of one being one.
    """
    if hasattr(os, "process_cpu_count"):  # from Python 3.13
        count = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    return max(1, min([count or 1, *_paid_processors(root)]))


def _paid_processors(root: Path) -> Iterator[int]:
    for folder in _control_groups(root, "cpu"):
        words = _words(folder / "cpu.max")
        words = words or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        quota, period = words if len(words) == 2 else ("", "")
        if quota.isdecimal() and period.isdecimal() and int(period):  # else "max" or -1
            yield -(-int(quota) // int(period))


def free_memory(root: Path = _SYSTEM) -> int:
    """Bytes that new processes may take, the disk's cache among them; half of the machine's where
    the system does not say.
    """
    known = [*_available(root), *_left_in_containers(root)]
    if known:
        return max(0, min(known))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available(root: Path) -> Iterator[int]:
    kilobytes = _table(root / "proc/meminfo").get("MemAvailable")
    if kilobytes is not None:
        yield kilobytes << 10


def _left_in_containers(root: Path) -> Iterator[int]:
    for folder in _control_groups(root, "memory"):
        for names in _MEMORY:
            limit, used = ("".join(_words(folder / name)) for name in names[:2])
            if limit.isdecimal() and used.isdecimal():  # else "max"
                cache = _table(folder / "memory.stat")
                yield int(limit) - int(used) + sum(cache.get(name, 0) for name in names[2])


def user_cache(name: str) -> Path:
    """The project's folder of that name in the user's cache, which need not exist: below
    XDG_CACHE_HOME, or `~/.cache`.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "resnet-rosetta" / name


def in_memory(folder: Path, root: Path = _SYSTEM) -> bool:
    """Whether what is written to a folder takes memory and not disk (tmpfs)."""
    place, depth, found = folder.resolve(), 0, ""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/mounts").read_text().splitlines():
            _, mount, kind, *_ = line.split(" ")
            path = Path(mount.encode().decode("unicode_escape"))  # a space is \040
            if place.is_relative_to(path) and len(path.parts) >= depth:  # a later one hides others
                depth, found = len(path.parts), kind
    return found in ("tmpfs", "ramfs")


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in, and of those around them, of
    version 2 and of the controller's version 1.

    In a container, a path may be the host's, and then only the mount itself is there.
    """
    mounts = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            for mount in (controllers, controller) if controllers else ("", "unified"):
                inner = mounts / mount / path.lstrip("/")
                yield from (
                    group
                    for group in (inner, *inner.parents)
                    if group.is_relative_to(mounts / mount)
                )


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _table(file: Path) -> dict[str, int]:
    """A file of lines with a name and a number."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
