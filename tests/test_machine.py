"""`shared.machine`: memory, processors and disk of a container, from made-up system files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared import machine
from shared.errors import FrameworkError
from shared.machine import free_memory, in_memory, processors, require_packages

GIB = 1 << 30
MEMINFO = {"proc/meminfo": f"MemTotal: {99 << 20} kB\nMemAvailable: {64 << 20} kB\n"}
V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"}
OWN, MOUNT = "sys/fs/cgroup/pod/box", "sys/fs/cgroup/memory"
CACHE = f"anon 1\nactive_file {GIB}\ninactive_file {GIB}\n"
TOTAL = f"total_active_file {GIB}\ntotal_inactive_file {GIB}\n"


def system(root: Path, *tables: dict[str, str]) -> Path:
    for table in tables:
        for name, text in table.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def limits(folder: str, limit: object, used: int, cache: str = "") -> dict[str, str]:
    table = {f"{folder}/memory.max": f"{limit}\n", f"{folder}/memory.current": f"{used}\n"}
    return table | ({f"{folder}/memory.stat": cache} if cache else {})


def old_limits(folder: str, limit: int, used: int, cache: str = "") -> dict[str, str]:
    names = (f"{folder}/memory.limit_in_bytes", f"{folder}/memory.usage_in_bytes")
    return dict(zip(names, (str(limit), str(used)), strict=True)) | {f"{folder}/memory.stat": cache}


# What the system's files say, and how many GiB are free.
MEMORY = {
    "no container": ((MEMINFO,), 64),
    "no limit": ((MEMINFO, V2, limits(OWN, "max", GIB)), 64),
    "version 2": ((MEMINFO, V2, limits(OWN, 8 * GIB, 3 * GIB)), 5),
    "the disk's cache is free": ((MEMINFO, V2, limits(OWN, 8 * GIB, 7 * GIB, CACHE)), 3),
    "around it": ((MEMINFO, V2, limits(OWN, "max", 1), limits("sys/fs/cgroup/pod", GIB * 4, 0)), 4),
    "at its root": (
        (MEMINFO, {"proc/self/cgroup": "0::/"}, limits("sys/fs/cgroup", 2 * GIB, 0)),
        2,
    ),
    "the host has less": ((MEMINFO, V2, limits(OWN, 900 * GIB, 0)), 64),
    "more is used": ((MEMINFO, V2, limits(OWN, GIB, 2 * GIB)), 0),
    "version 1": ((MEMINFO, V1, old_limits(f"{MOUNT}/docker/abc", 6 * GIB, GIB)), 5),
    "version 1, its own mount": ((MEMINFO, V1, old_limits(MOUNT, 6 * GIB, 4 * GIB, TOTAL)), 4),
    "version 1, no limit": ((MEMINFO, V1, old_limits(MOUNT, (1 << 63) - 4096, GIB)), 64),
}


@pytest.mark.parametrize(("tables", "expected"), MEMORY.values(), ids=MEMORY)
def test_free_memory(tmp_path: Path, tables: tuple[dict[str, str], ...], expected: int) -> None:
    assert free_memory(system(tmp_path, *tables)) == expected * GIB


def test_where_the_system_says_nothing_half_of_it_is_free(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_memory(tmp_path) == whole // 2


def test_here_some_memory_is_free() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 16 << 20 < free_memory() <= whole


PROCESSORS = {
    "no container": ((), 16),
    "no limit": ((V2, {f"{OWN}/cpu.max": "max 100000\n"}), 16),
    "version 2": ((V2, {f"{OWN}/cpu.max": "400000 100000\n"}), 4),
    "a part of one": ((V2, {f"{OWN}/cpu.max": "20000 100000\n"}), 1),
    "one and a half": ((V2, {f"{OWN}/cpu.max": "150000 100000\n"}), 2),
    "around it": ((V2, {"sys/fs/cgroup/pod/cpu.max": "200000 100000\n"}), 2),
    "more than there are": ((V2, {f"{OWN}/cpu.max": "9900000 100000\n"}), 16),
    "version 1": (
        (
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        ),
        3,
    ),
    "version 1, no limit": (
        (
            V1,
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
        ),
        16,
    ),
}


@pytest.mark.parametrize(("tables", "expected"), PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("way", ["process_cpu_count", "sched_getaffinity", "cpu_count"])
def test_processors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tables: tuple[dict[str, str], ...],
    expected: int,
    way: str,
) -> None:
    """Of 64, of which this process may use 16; macOS has neither affinity nor containers."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16 if way == "cpu_count" else 64)
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    if way == "process_cpu_count":
        monkeypatch.setattr(os, way, lambda: 16, raising=False)
    elif way == "sched_getaffinity":
        monkeypatch.setattr(os, way, lambda _: set(range(16)), raising=False)
    assert processors(system(tmp_path, *tables)) == expected


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("", False),
        ("/dev/sda / ext4 rw 0 0", False),
        ("/dev/sda / ext4 rw 0 0\ntmpfs {parent} tmpfs rw 0 0", True),
        ("tmpfs {parent} tmpfs rw 0 0\n/dev/sda / ext4 rw 0 0", True),
        ("tmpfs {parent} tmpfs rw 0 0\n/dev/sdb {place} ext4 rw 0 0", False),
        ("tmpfs {place} tmpfs rw 0 0\n/dev/sdb {place} ext4 rw 0 0", False),
        ("tmpfs {place}x tmpfs rw 0 0", False),
        ("none {place} ramfs rw 0 0", True),
    ],
)
def test_what_lies_in_memory(tmp_path: Path, mounts: str, expected: bool) -> None:
    place = tmp_path / "a folder"
    place.mkdir()
    written = {"place": str(place).replace(" ", "\\040"), "parent": str(tmp_path)}
    root = system(tmp_path / "root", {"proc/self/mounts": mounts.format(**written)})
    assert in_memory(place, root) is expected


@pytest.mark.parametrize(
    ("absent", "are"), [(("a_a",), "a_a, which is"), (("a_a", "b_b"), "a_a and b_b, which are")]
)
def test_what_is_not_installed(absent: tuple[str, ...], are: str) -> None:
    says = rf"^this needs {are} not installed; pip install 'resnet-rosetta\[x\]'$"
    with pytest.raises(FrameworkError, match=says):
        require_packages("this", "x", "numpy", *absent)
    assert machine.missing_packages(("numpy", *absent)) == absent
