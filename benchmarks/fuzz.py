"""Gives hostile files and texts to all that reads what strangers wrote, and watches what happens.

A case is made from its target's name and its number alone, so that any can be had again:
`python benchmarks/fuzz.py --target images --case 12345`. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from fuzzing.archives import Tars, Weights
from fuzzing.bundles import Bundles
from fuzzing.checkpoints import Checkpoints
from fuzzing.images import Images
from fuzzing.texts import Assignments, Palettes, Recipes, Reports
from fuzzing.watching import SECONDS, Outcome, Watch
from record import add_record_option, check_page, record

from img2img.data.limits import set_pixel_limit

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
# Kinds of input, and how many of 1,000 cases are theirs.
TARGETS: dict[str, tuple[Any, int]] = {
    "recipes": (Recipes, 150),
    "assignments": (Assignments, 100),
    "palettes": (Palettes, 60),
    "bundles": (Bundles, 120),
    "checkpoints": (Checkpoints, 70),
    "images": (Images, 350),
    "tars": (Tars, 70),
    "weights": (Weights, 60),
    "reports": (Reports, 20),
}
# Pixels an image may have here, so that what is promised of memory is tested with little of it.
PIXELS = 1 << 20
# Bytes beyond what a process has at its start, which is far more than PIXELS and BESIDE allow for.
MEMORY = 1536 << 20
# Seconds on the wall without a word from the process that runs the cases.
SILENCE = 60.0
# Cases that one process runs; memory that leaks shows, and does no harm.
CASES_EACH = 20_000
# Digits of a finding's input that are kept with the outcome; its number gives all of it.
LONGEST_INPUT = 200_000
# Those that write a file, which is what they are for.
WRITERS = ("reports",)


@dataclass
class Tally:
    """What became of a target's cases.

    Attributes:
        kinds: how many were accepted, or refused by which error.
        slowest: seconds of the processor's time, and the case.
        growth: megabytes that the most memory rose by, in the process where it rose most.
        findings: by place, the first case and what is wrong, and how many more there are.
    """

    cases: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    slowest: tuple[float, int] = (0.0, 0)
    growth: float = 0.0
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, number: int, outcome: Outcome, growth: float, content: str = "") -> None:
        self.cases += 1
        self.kinds[outcome.kind] += 1
        self.slowest = max(self.slowest, (round(outcome.seconds, 3), number))
        self.growth = max(self.growth, round(growth, 1))
        if outcome.kind == "finding":
            found = self.findings.setdefault(
                outcome.where,
                {"case": number, "text": outcome.text, "times": 0, "input": content},
            )
            found["times"] += 1


class Bench:
    """A target made ready in this process: seeds built, everything imported, under watch."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.target = TARGETS[name][0]()
        for content in self.target.valid():
            self.target.prepare(content, folder)
            # Once without watching: whatever is imported late is imported then.
            with contextlib.suppress(Exception):
                self.target.run(content, folder)
        self.watch: Watch | None = None

    def begin(self, watch: Watch, memory: int) -> None:
        watch.may_write = self.name in WRITERS
        watch.set_limits(memory)
        self.watch = watch

    def content(self, number: int) -> bytes:
        made: bytes = self.target.make(random.Random(f"{self.name} {number}"))
        return made

    def case(self, number: int) -> Outcome:
        assert self.watch is not None
        content = self.content(number)
        self.target.prepare(content, self.folder)
        return self.watch.case(lambda: self.target.run(content, self.folder))


def _peak() -> float:
    """The most memory that this process had, in megabytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _work(bench: Bench, start: int, end: int, pipe: int, memory: int) -> None:
    """In a process of its own: run cases, and tell of each in a line."""
    null = os.open(os.devnull, os.O_RDWR)
    # Decoders in C print what they think of a file.
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    bench.begin(Watch(bench.folder), memory)
    # The whole set-up counted once, so that what grows is of the cases.
    before = _peak()
    for number in range(start, end):
        outcome = bench.case(number)
        said: dict[str, Any] = {"n": number, "g": round(_peak() - before, 1)}
        said |= {key: value for key, value in asdict(outcome).items() if key != "text"}
        if outcome.kind == "finding":
            said |= {"text": outcome.text, "input": bench.content(number).hex()[:LONGEST_INPUT]}
        os.write(pipe, json.dumps(said).encode() + b"\n")


def run_target(name: str, start: int, count: int, folder: Path, memory: int) -> Tally:
    """Run a target's cases in processes that may crash and hang."""
    bench, tally, at = Bench(name, folder), Tally(), start
    while at < start + count:
        end = min(at + CASES_EACH, start + count)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                _work(bench, at, end, writing, memory)
                status = 0
            # A fault of the fuzzer's own must not look like a case that ends the process.
            except BaseException:
                text = traceback.format_exc()[-3000:]
                os.write(writing, json.dumps({"broken": text}).encode() + b"\n")
            finally:
                os._exit(status)
        os.close(writing)
        at, said = _listen(reading, tally, at)
        os.close(reading)
        if said == "silent":
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if at < end:
            what = "hangs" if said == "silent" else f"ends the process, status {status}"
            if said.startswith("Traceback"):
                what = f"breaks the fuzzer itself: {said}"
            tally.add(at, Outcome("finding", what, what[:40]), 0)
            at += 1
    return tally


def _listen(pipe: int, tally: Tally, at: int) -> tuple[int, str]:
    """Take in what a process tells: the number of its next case, and how it ended."""
    buffered = b""
    while True:
        if not select.select([pipe], [], [], SILENCE)[0]:
            return at, "silent"
        data = os.read(pipe, 1 << 16)
        if not data:
            return at, "ended"
        *lines, buffered = (buffered + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "broken" in said:
                return at, str(said["broken"])
            outcome = Outcome(said["kind"], said.get("text", ""), said["where"], said["seconds"])
            tally.add(said["n"], outcome, said["g"], said.get("input", ""))
            at = said["n"] + 1


def again(name: str, number: int, folder: Path, memory: int) -> int:
    """Run one case in this process, and say all that there is to say."""
    bench = Bench(name, folder)
    content = bench.content(number)
    print(f"{name} {number}: {len(content)} bytes, in {folder}", flush=True)
    print(repr(content[:2000]))
    bench.begin(Watch(folder), memory)
    outcome = bench.case(number)
    print(f"{outcome.kind} after {outcome.seconds:.3f} s {outcome.where}\n{outcome.text}")
    return int(outcome.kind == "finding")


def rows(tallies: dict[str, Tally]) -> list[list[object]]:
    """A line for each target, and one of sums."""
    found: list[list[object]] = []
    for name, tally in tallies.items():
        refused = tally.cases - tally.kinds["accepted"] - tally.kinds["finding"]
        slow = f"{tally.slowest[0]:.2f}"
        growth = f"{tally.growth:.0f}"
        accepted = f"{tally.kinds['accepted']:,}"
        found.append(
            [name, f"{tally.cases:,}", accepted, f"{refused:,}", slow, growth, len(tally.findings)]
        )
    sums = [sum(tally.cases for tally in tallies.values())]
    sums.append(sum(tally.kinds["accepted"] for tally in tallies.values()))
    found_count = sum(len(tally.findings) for tally in tallies.values())
    findings = sum(tally.kinds["finding"] for tally in tallies.values())
    refused = f"{sums[0] - sums[1] - findings:,}"
    found.append(["all", f"{sums[0]:,}", f"{sums[1]:,}", refused, "", "", found_count])
    return found


HEADINGS = ("input", "cases", "accepted", "refused", "slowest, s", "memory, MB", "findings")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--start", type=int, default=0, help="number of each target's first case")
    parser.add_argument(
        "--target", choices=TARGETS, action="append", help="this one; all if not given"
    )
    parser.add_argument("--case", type=int, help="run this one case of --target, and show it")
    parser.add_argument(
        "--memory", type=int, default=MEMORY >> 20, help="megabytes a case may take"
    )
    parser.add_argument("--out", type=Path, help="where to write the outcome as JSON")
    parser.add_argument(
        "--table", type=Path, help="an outcome of before, to --record; runs nothing"
    )
    add_record_option(parser, PAGE)
    options = parser.parse_args()
    check_page(options.record, torch.device("cpu"), "fuzz")
    if options.table is not None:
        outcome = json.loads(options.table.read_text(encoding="utf-8"))
    else:
        torch.set_num_threads(1)
        set_pixel_limit(PIXELS)
        # In memory, where the system has such a folder: a disk is slower than most of the readers.
        memory = Path("/dev/shm")
        base = memory if os.access(memory, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="img2img-fuzz-", dir=base) as place:
            folder = Path(place).resolve()
            os.environ["IMG2IMG_CACHE"] = str(folder / "cache")
            if options.case is not None:
                return again(options.target[0], options.case, folder, options.memory << 20)
            outcome = run_all(options, folder)
        print(json.dumps(outcome, indent=1))
    if options.record is not None:
        headings, *lines = outcome["table"]
        note = (
            f"Cases from number {outcome['start']} on, in {outcome['seconds'] // 60} minutes; one "
            f"may take {SECONDS:.0f} s of the processor's time, an image have {PIXELS:,} pixels."
        )
        record(options.record, "fuzz", torch.device("cpu"), headings, lines, note)
    return int(any(target["findings"] for target in outcome["targets"].values()))


def run_all(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the cases of each target, and tell what came of them; also on the way, in `--out`."""
    names = options.target or list(TARGETS)
    shares = {name: TARGETS[name][1] for name in names}
    tallies: dict[str, Tally] = {}
    began = time.monotonic()
    outcome: dict[str, Any] = {}
    for name in names:
        count = -(-options.cases * shares[name] // sum(shares.values()))
        inputs = folder / name
        inputs.mkdir()
        tallies[name] = run_target(name, options.start, count, inputs, options.memory << 20)
        outcome = _outcome(tallies, options.start, time.monotonic() - began)
        if options.out is not None:
            options.out.write_text(json.dumps(outcome, indent=1), encoding="utf-8")
        print(*rows({name: tallies[name]})[0], sep="\t", file=sys.stderr, flush=True)
    return outcome


def _outcome(tallies: dict[str, Tally], start: int, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds),
        "start": start,
        "targets": {name: vars(tally) for name, tally in tallies.items()},
        "table": [HEADINGS, *rows(tallies)],
    }


if __name__ == "__main__":
    sys.exit(main())
