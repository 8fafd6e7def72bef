"""What of the machine this process may use: its cores and its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def local_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes of this run share the machine, as torchrun says; 1 without it."""
    value = environment.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(value)) if value.isdecimal() else 1


def available_cores() -> int:
    """How many cores this process may use, at least 1: by affinity, and by its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    for folder in _cgroup_folders("cpu"):
        words = _text(folder / "cpu.max").split()
        if len(words) != 2:
            words = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if all(word.isdecimal() for word in words) and int(words[1]):
            cores = min(cores, int(words[0]) / int(words[1]))
    return max(1, int(cores))


def available_memory() -> int:
    """Bytes that can still be used without swapping, here and in this process's cgroups.

    What files leave in memory counts as free, because the kernel gives it up when asked.
    """
    free = _meminfo().get("MemAvailable", 0) or _free_pages()
    for folder in _cgroup_folders("memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdecimal() and used.isdecimal():
            stat = dict(line.split()[:2] for line in _text(folder / "memory.stat").splitlines())
            files = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
            free = min(free, int(limit) - int(used) + int(files))
    return max(0, free)


def _meminfo() -> dict[str, int]:
    found = {}
    for line in _text(PROC / "meminfo").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[0].isdecimal():
            found[name] = int(words[0]) * 1024
    return found


def _free_pages() -> int:
    # Without /proc nothing says what is free; a quarter of all memory is a careful guess.
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    return 0


def _cgroup_folders(controller: str) -> Iterator[Path]:
    """This process's cgroup and those around it, for version 2 and 1; limits add up on the way."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, inside = rest.partition(":")
        if number == "0" and not names:
            top = CGROUPS
        elif controller in names.split(","):
            top = CGROUPS / controller
        else:
            continue
        # In a container the path may be that outside of it; what is mounted is the top then.
        folder = top / inside.lstrip("/")
        yield from (f for f in (folder, *folder.parents) if f == top or top in f.parents)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
