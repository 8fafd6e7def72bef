"""Measures what the size of a data set costs: lists of a million files, and shards of gigabytes.

Everything is made below a folder and deleted again. Each figure is from a fresh process, because
memory that Python once took seldom goes back. Linux only. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Files of the list are so many names of one, and file systems allow few of those (ext4 65,000).
NAMES_OF_ONE = 10_000
FILES_IN_A_FOLDER = 1000
# What was changed shortly before it is listed is not kept.
AGE_NS = 60 * 10**9


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to make the data")
    parser.add_argument("--files", type=int, nargs="*", default=[10**4, 10**5, 10**6])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the shards; 0 for none")
    parser.add_argument("--size", type=int, default=256, help="height and width, in pixels")
    parser.add_argument("--shard-megabytes", type=float, default=128.0, help="of each, at most")
    parser.add_argument("--reads", type=int, default=2000, help="pairs read for a speed, at most")
    parser.add_argument(
        "--probe", nargs=3, metavar=("KIND", "ROOT", "READS"), help=argparse.SUPPRESS
    )
    parser.add_argument("--record", nargs="?", const="", metavar="PAGE", help="as the others have")
    options = parser.parse_args(arguments)
    if options.probe is not None:
        kind, root, reads = options.probe
        print(json.dumps(probe(kind, Path(root), int(reads))))
        return
    if min([*options.files, options.size, options.reads]) < 1 or options.shard_megabytes <= 0:
        parser.error("--files, --size, --shard-megabytes and --reads must be above 0")
    if options.gigabytes < 0:
        parser.error(f"--gigabytes must not be below 0, but is {options.gigabytes}")
    page = None
    if options.record is not None:
        # Late, because it imports torch, and a probe is this script as well.
        import torch
        from record import PAGE, check_page

        page = Path(options.record) if options.record else PAGE
        check_page(page, torch.device("cpu"), "data")
    if options.work is not None:
        try:
            options.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--work {options.work}: {error.strerror or error}")
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        # For this process; probes have another one, where nothing is kept before their first start.
        os.environ["IMG2IMG_CACHE"] = str(Path(folder, "own-cache"))
        result = benchmark(options, Path(folder))
    print(json.dumps(result, indent=2))
    if page is not None:
        keep(page, result)


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What `main` prints; all files go below `folder`."""
    lists = {}
    for count in options.files:
        root = folder / "list"
        began = time.perf_counter()
        make_list(root, count, options.size)
        made = time.perf_counter() - began
        lists[str(count)] = {"made_s": made, **starts("list", root, folder / "cache", 0)}
        shutil.rmtree(root)
    shards = measure_shards(options, folder) if options.gigabytes else None
    names = ("files", "gigabytes", "size", "shard_megabytes", "reads")
    return {
        "lists": lists,
        "shards": shards,
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "settings": {name: getattr(options, name) for name in names},
    }


def keep(page: Path, result: dict[str, Any]) -> None:
    """Write the outcome into the page."""
    import torch
    from record import record

    rows: list[list[object]] = []
    for count, starts_of in result["lists"].items():
        first, second = starts_of["first_start"], starts_of["second_start"]
        rows.append(
            [
                f"a list of {int(count):,} files",
                first["first_pair_s"],
                1000 * second["first_pair_s"],
                second["anonymous_growth_mb"],
                "",
            ]
        )
    shards = result["shards"] or {}
    for kind in ("shards", "plain_files"):
        if kind in shards:
            first, second = shards[kind]["first_start"], shards[kind]["second_start"]
            about = f"{shards['pairs']:,} pairs in {kind.replace('_', ' ')}"
            rows.append(
                [
                    f"{about}, {shards['image_bytes'] / 1e9:.1f} GB",
                    first["first_pair_s"],
                    1000 * second["first_pair_s"],
                    second["anonymous_growth_after_mb"],
                    f"{second['pairs_per_s']:.0f} ({second['processor_ms_per_pair']:.2f} ms)",
                ]
            )
    record(
        page,
        "data",
        torch.device("cpu"),
        ["", "first start, s", "later start, ms", "own memory then, MB", "pairs/s (of one core)"],
        rows,
        "To the first pair, in fresh processes; what the files hold was dropped from memory "
        "before. Each pair occurs once in an epoch split over four processes.",
    )


def measure_shards(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Shards and the files in them: starts, reading in the order of training, and completeness."""
    # Late, as everything of ours: probes import it themselves, and are timed.
    from img2img.data.make_shards import make_shards
    from img2img.data.two_folders import TwoFolders

    files, shards = folder / "files", folder / "shards"
    # One pair to validate on, or both sources would hold out a tenth.
    make_pairs(files, "val", 1, options.size)
    size = make_pairs(files, "train", options.gigabytes * 1e9, options.size)
    pairs = TwoFolders(files, "train")
    began = time.perf_counter()
    counts = make_shards(
        {"train": pairs, "val": TwoFolders(files, "val")},
        shards,
        int(options.shard_megabytes * 1e6),
    )
    packed = time.perf_counter() - began
    for path in (*files.rglob("*"), files, *shards.iterdir()):
        if path.is_dir() or path.suffix == ".tar":
            make_older(path)
    result: dict[str, Any] = {
        "image_bytes": size,
        "tar_files": counts["train"],
        "pairs": len(pairs),
        "packed_s": packed,
        "shards": starts("shards", shards, folder / "cache", options.reads),
        "plain_files": starts("two_folders", files, folder / "cache", options.reads),
    }
    for kind in ("shards", "plain_files"):
        for start in result[kind].values():
            start["read_mb_per_s"] = start["pairs_per_s"] * size / len(pairs) / 1e6
    for epoch in (0, 1):
        result[f"epoch_{epoch}"] = each_once(shards, epoch, is_read=epoch == 0)
    return result


def starts(kind: str, root: Path, cache: Path, reads: int) -> dict[str, Any]:
    """The first start, which lists or looks through everything, and the second one."""
    return {name: run_probe(kind, root, cache, reads) for name in ("first_start", "second_start")}


def run_probe(kind: str, root: Path, cache: Path, reads: int) -> dict[str, Any]:
    """What `probe` gives, in a fresh process."""
    if reads:
        forget(root)
    environment = {**os.environ, "IMG2IMG_CACHE": str(cache)}
    command = [sys.executable, __file__, "--probe", kind, str(root), str(reads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def probe(kind: str, root: Path, reads: int) -> dict[str, Any]:
    """Start a source in this process and read its first pair, and more in the order of training."""
    from img2img.data import Shards, SideBySide, TwoFolders
    from img2img.data.order import Order
    from img2img.data.reading import decode

    # What is imported at the first decoding is no part of it.
    (warm_up := io.BytesIO()).name = "warm-up"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(warm_up, "jpeg")
    warm_up.seek(0)
    decode(warm_up, "warm-up")
    before = memory()
    began = time.perf_counter()
    source = {"list": SideBySide, "shards": Shards, "two_folders": TwoFolders}[kind](root, "train")
    started = time.perf_counter()
    source.pair(len(source) // 2)
    first = time.perf_counter()
    result: dict[str, Any] = {
        "pairs": len(source),
        "start_s": started - began,
        "first_pair_s": first - began,
        **{f"{name}_growth_mb": value - before[name] for name, value in memory().items()},
    }
    if reads:
        indices = Order(len(source), 0, getattr(source, "shards", None)).indices(
            0, 0, min(reads, len(source))
        )
        began, worked = time.perf_counter(), time.process_time()
        total = sum(first.nbytes + second.nbytes for first, second in map(source.pair, indices))
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        result |= {
            "processor_ms_per_pair": worked / len(indices) * 1e3,
            "pairs_per_s": len(indices) / seconds,
            "decoded_mb_per_s": total / 1e6 / seconds,
            **{f"{name}_growth_after_mb": v - before[name] for name, v in memory().items()},
        }
    return result


def memory() -> dict[str, float]:
    """Of this process, in MB.

    `anonymous` is what it keeps in memory itself. `private` has beside it the pages of mapped files
    that no other process maps, which the system drops when it needs memory; `resident` has all that
    is mapped, and `peak` is the most of that.
    """
    # Not getrusage, where the most is that of the process that started this one.
    sizes = {}
    for name in ("smaps_rollup", "status"):
        lines = Path("/proc/self", name).read_text(encoding="ascii").splitlines()
        parts = [line.split() for line in lines if line.endswith(" kB")]
        sizes |= {part[0]: int(part[1]) * 1024 / 1e6 for part in parts}
    private = sizes["Private_Clean:"] + sizes["Private_Dirty:"]
    return {
        "anonymous": sizes["Anonymous:"],
        "private": private,
        "resident": sizes["Rss:"],
        "peak": sizes["VmHWM:"],
    }


def each_once(root: Path, epoch: int, is_read: bool) -> dict[str, Any]:
    """Whether an epoch, split over 4 processes, has every pair once; and reads as many different.

    Raises:
        SystemExit: it has not.
    """
    from img2img.data import Shards
    from img2img.data.loading import StepSampler, steps_per_epoch
    from img2img.data.order import Order

    source = Shards(root, "train")
    order = Order(len(source), 0, source.shards)
    per_epoch = steps_per_epoch(len(source), 4 * 4)
    seen = np.zeros(len(source), np.int64)
    for rank in range(4):
        first, stop = epoch * per_epoch, (epoch + 1) * per_epoch
        for part in StepSampler(order, 4, first, stop, rank=rank, world_size=4):
            if part.share:
                np.add.at(seen, list(part.indices), 1)
    if not (seen == 1).all():
        raise SystemExit(f"epoch {epoch} has pairs {seen.min()} to {seen.max()} times")
    result: dict[str, Any] = {"pairs": len(source), "each": 1}
    if is_read:
        indices = order.indices(epoch, 0, len(source))
        rows = {tuple(image[0].tobytes() for image in source.pair(index)) for index in indices}
        if len(rows) != len(source):
            raise SystemExit(f"{len(source)} pairs are {len(rows)} different ones")
        result["different"] = len(rows)
    return result


def make_list(root: Path, count: int, size: int) -> None:
    """So many files of two halves, in folders of a thousand."""
    for number in range(count):
        if number % FILES_IN_A_FOLDER == 0:
            folder = root / f"{number // FILES_IN_A_FOLDER:06}"
            folder.mkdir(parents=True)
        path = folder / f"{number:09}.png"
        if number % NAMES_OF_ONE == 0:
            Image.fromarray(noise(number, size, 2 * size)).save(original := path)
        else:
            os.link(original, path)
    for folder in (root, *root.iterdir()):
        make_older(folder)


def make_pairs(root: Path, split: str, least: float, size: int) -> int:
    """Pairs of noise of so many bytes together, in two folders; gives how many bytes they are."""
    total = number = 0
    while total < least:
        for side, name in enumerate("AB"):
            folder = root / split / name / f"{number // FILES_IN_A_FOLDER:06}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{number:09}.jpg"
            Image.fromarray(noise(2 * number + side, size, size)).save(path, quality=90)
            total += path.stat().st_size
        number += 1
    return total


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """An image like no other."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def forget(root: Path) -> None:
    """Let the system drop what it has of the files in memory: they are read from the disk."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def make_older(path: Path) -> None:
    """Set back when it was changed last."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - AGE_NS))


if __name__ == "__main__":
    main()
