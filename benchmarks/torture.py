"""Kills runs at random moments, goes on with `--resume`, and holds the end against a whole run.

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from record import add_record_option, check_page, record
from run_compare import differences, faults, last_step
from torture_recipe import make_recipe
from torture_victim import LIMIT_S, Fate, start, wait_for_group

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
VICTIM = Path(__file__).with_name("torture_victim.py")
KINDS = ("time", "time", "file", "file", "file", "half", "half", "step", "look", "optimizer")
# Parts of paths: in turn something of each is hit, since random moments alone rarely find them.
FILES = ("checkpoints", "samples", "metrics", "model", "best", "report", "tensorboard", "")
SIGNALS = {"kill": int(signal.SIGKILL), "term": int(signal.SIGTERM), "int": int(signal.SIGINT)}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Death:
    """What became of one process.

    Attributes:
        kind: as the fate has it, or `time`.
        place: what it was at.
        what: the call that was hit.
        step: the last step that was done.
        code: exit code; below 0 the signal.
        workers, alone, moved: of its circumstances.
        left_s: seconds until no process of its group was left.
        steps_after: done after the signal, where that is not SIGKILL.
        faults: what could not be read afterwards.
    """

    kind: str
    place: str
    what: str
    step: int
    code: int
    workers: int
    alone: bool
    moved: bool
    left_s: float = 0.0
    steps_after: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Chain:
    """A run that died again and again, and how its end differs from that of a whole one."""

    deaths: list[Death]
    unlike: list[str]


class Torture:
    """Lives and deaths of the same recipe below one folder.

    Args:
        work: an empty folder.
        steps: of the run.
        seed: of all that is random.
    """

    def __init__(self, work: Path, steps: int, seed: int) -> None:
        self.work, self.steps, self.random = work, steps, random.Random(seed)
        self.recipe = make_recipe(work, steps)
        self.server = subprocess.Popen(
            [sys.executable, str(VICTIM), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self.server.stdout.readline()  # ready
        self.whole, self.whole_s = work / "whole", 0.0

    def try_whole(self) -> None:
        """The run that is left alone.

        Raises:
            SystemExit: it is not sound.
        """
        began = time.monotonic()
        self.live(self.whole, Fate(str(self.whole), str(self.work / "hit.json")))
        self.whole_s = time.monotonic() - began
        if problems := faults(self.whole):
            raise SystemExit("the whole run is not sound:\n" + "\n".join(problems))

    def chain(self, name: str, most: int, mode: str) -> Chain:
        """A run that dies up to `most` times, and then goes on to its end."""
        run, deaths = self.work / name, []
        while len(deaths) < most and last_step(run) < self.steps:
            moved = run.is_dir() and self.random.random() < 0.15
            if moved:
                run = run.rename(self.work / f"{name}-{len(deaths)}")
            if (death := self._die(run, mode, len(deaths))) is not None:
                death.moved = moved
                deaths.append(death)
                print(f"{name} {len(deaths)}: {death.place}, {death.what}", file=sys.stderr)
        code = self.live(run, Fate(str(run), str(self.work / "hit.json")))[0]
        unlike = [f"the last --resume ended with {code}"] if code else []
        unlike += faults(run) + differences(run, self.whole)
        if not unlike:
            shutil.rmtree(run)
        return Chain(deaths, unlike)

    def live(
        self, run: Path, fate: Fate, workers: int = 0, after_s: float = 0
    ) -> tuple[int, float, float]:
        """One process until its end; if `after_s` is set, it is killed so long after its start.

        Returns:
            Exit code, seconds until no process of its group was left, and when the signal was sent.
        """
        Path(fate.record).unlink(missing_ok=True)
        arguments = ["run", str(self.recipe), f"--out={run}", "--device=cpu", "--resume"]
        arguments.append(f"--set=data.workers={workers}")
        output = self.work / "output.txt"
        if after_s or run == self.whole:
            leader, code, sent = _live_apart(arguments, fate, output, after_s)
        else:
            self.server.stdin.write(json.dumps([asdict(fate), arguments, str(output)]) + "\n")
            self.server.stdin.flush()
            (leader, code), sent = json.loads(self.server.stdout.readline()), 0.0
        ended = time.monotonic()
        wait_for_group(leader, 30)
        return code, time.monotonic() - ended, sent

    def close(self) -> None:
        """End the process that makes processes."""
        self.server.stdin.close()
        self.server.wait()

    def _die(self, run: Path, mode: str, number: int) -> Death | None:
        """One process that was hit; None where it came to its end before."""
        draw = self.random
        workers = 2 if draw.random() < 0.25 else 0
        fate = Fate(
            run=str(run),
            record=str(self.work / "hit.json"),
            kind=draw.choice(KINDS if mode == "kill" else [k for k in KINDS if k != "half"]),
            number=SIGNALS[mode],
            alone=draw.random() < 0.4,
            late_s=draw.choice([0.0, 0.0, draw.uniform(0, 0.02)]),
            steps=str(self.work / "steps.txt"),
        )
        if fate.kind == "half":
            fate.late_s = 0.0  # or the half would be given its name
        # Files are few calls, networks have a hundred or so each step.
        fate.count = draw.randint(1, 100 if fate.kind in ("step", "look") else 5)
        if fate.kind in ("file", "half"):
            fate.within = FILES[number % len(FILES)] if fate.kind == "file" else draw.choice(FILES)
        # From the very start, from somewhere ahead, or from the last step on.
        here = last_step(run)
        ahead = here + draw.randint(1, 7)
        fate.since = draw.choice([-1, -1, ahead, ahead, ahead, self.steps])
        if fate.kind == "time":
            fate.kind, after_s = "never", draw.uniform(0.05, self.whole_s)
        else:
            after_s = 0
        Path(self.work / "steps.txt").unlink(missing_ok=True)
        code, left_s, sent = self.live(run, fate, workers, after_s)
        hit = _read(Path(fate.record))
        if code == 0:
            return None
        if after_s:
            begun = (self.work / "steps.txt").exists()
            hit = {
                "place": "at a random time" if begun else "start-up",
                "what": f"after {after_s:.2f} s",
            }
            hit |= {"step": last_step(run), "at": sent}
        death = Death(
            kind="time" if after_s else fate.kind,
            place=hit.get("place", "nowhere"),
            what=hit.get("what", (self.work / "output.txt").read_text()[-2000:]),
            step=hit.get("step", -1),
            code=code,
            workers=workers,
            alone=fate.alone,
            moved=False,
            left_s=left_s,
        )
        death.faults = faults(run, running=mode == "kill") if run.exists() else []
        expected = -signal.SIGKILL if mode == "kill" else 130
        if code != expected:
            said = (self.work / "output.txt").read_text()[-2000:]
            death.faults.append(f"ended with {code}, not {expected}: {said}")
        if left_s >= 15:
            death.faults.append("a process of its group was left")
        if mode != "kill":
            death.steps_after = _steps_after(self.work / "steps.txt", float(hit.get("at", 0)))
            said = (self.work / "output.txt").read_text()
            if "Traceback" in said or not said.strip():
                death.faults.append(f"it said {said[-2000:]!r}")
            if death.steps_after > 1:
                death.faults.append(f"{death.steps_after} steps after the signal")
        return death


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how many in all")
    parser.add_argument("--chain", type=int, default=10, help="how many a run, at most")
    parser.add_argument("--steps", type=int, default=90, help="of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--mode", choices=tuple(SIGNALS), default="kill", help="SIGKILL, SIGTERM or SIGINT"
    )
    parser.add_argument("--work", type=Path, help="keeps runs whose end was another")
    add_record_option(parser, PAGE)
    chosen = parser.parse_args(arguments)
    name = "torture" if chosen.mode == "kill" else f"torture-{chosen.mode}"
    check_page(chosen.record, torch.device("cpu"), name)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background, and so would all be that it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="torture-", dir=chosen.work))
    torture = Torture(work, chosen.steps, chosen.seed)
    chains: list[Chain] = []
    try:
        torture.try_whole()
        while (left := chosen.kills - sum(len(chain.deaths) for chain in chains)) > 0:
            chains.append(torture.chain(f"run{len(chains)}", min(left, chosen.chain), chosen.mode))
    finally:
        torture.close()
        if chosen.work is None:
            shutil.rmtree(work)
    rows = table(chains)
    outcome = {
        "mode": chosen.mode,
        "kills": sum(len(chain.deaths) for chain in chains),
        "runs": len(chains),
        "exact": sum(not chain.unlike for chain in chains),
        "places": rows,
        "longest_left_s": max(death.left_s for chain in chains for death in chain.deaths),
        "steps_after": max(death.steps_after for chain in chains for death in chain.deaths),
        "wall_s": time.monotonic() - began,
        "settings": {"steps": chosen.steps, "seed": chosen.seed, "chain": chosen.chain},
        "chains": [asdict(chain) for chain in chains],
    }
    print(json.dumps(outcome, indent=1))
    if chosen.record is not None:
        record(
            chosen.record,
            name,
            torch.device("cpu"),
            ("killed in", "times", "files sound after it", "of runs that ended exactly alike"),
            [list(row.values()) for row in rows],
            note=f"{outcome['kills']} times in {len(chains)} runs of {chosen.steps} steps, "
            f"seed {chosen.seed}; {outcome['exact']} of {len(chains)} runs ended exactly alike.",
        )
    wrong = [chain for chain in chains if chain.unlike or any(d.faults for d in chain.deaths)]
    sys.exit(1 if wrong else 0)


def _live_apart(
    arguments: Sequence[str], fate: Fate, output: Path, after_s: float
) -> tuple[int, int, float]:
    """A process that imports what it needs, killed after some time: its id, exit code, and when."""
    way = [str(VICTIM), start(fate)] if fate.steps else ["-m", "img2img"]
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *way, *arguments],
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=ENVIRONMENT,
        )
    sent = 0.0
    if after_s:
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        sent = time.monotonic()
        if process.poll() is None:
            (os.kill if fate.alone else os.killpg)(process.pid, fate.number)
    try:
        return process.pid, process.wait(LIMIT_S), sent
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.pid, process.wait() - 1000, sent


def table(chains: Sequence[Chain]) -> list[dict[str, Any]]:
    """By place of death: how many, how many left all files sound, how many were of exact runs."""
    count: Counter[str] = Counter()
    sound: Counter[str] = Counter()
    exact: Counter[str] = Counter()
    for chain in chains:
        for death in chain.deaths:
            count[death.place] += 1
            sound[death.place] += not death.faults
            exact[death.place] += not chain.unlike
    return [
        {"place": place, "kills": times, "sound": sound[place], "exact": exact[place]}
        for place, times in sorted(count.items())
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    assert isinstance(found, dict)
    return found


def _steps_after(log: Path, signalled: float) -> int:
    lines = log.read_text().splitlines() if log.is_file() else []
    return sum(float(line.split()[1]) > signalled for line in lines)


if __name__ == "__main__":
    main()
