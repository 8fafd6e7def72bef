"""Trains the runs of a comparison, as many at once as the devices allow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from img2img.bundle import saved_step
from img2img.errors import Interrupted, RequestError

# Seconds between two looks at the runs.
PAUSE = 0.2
# Bytes at the end of `metrics.jsonl` that hold a whole line.
TAIL = 1 << 16


@dataclass(frozen=True)
class Job:
    """One run: a variant and a seed.

    Attributes:
        variant: its name.
        seed: of the run.
        recipe: the variant's file.
        folder: the run directory.
        steps: in the whole run.
    """

    variant: str
    seed: int
    recipe: Path
    folder: Path
    steps: int

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run says; beside its directory, where nothing else may lie when it begins."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def finished(self) -> bool:
        """Whether its model is there, with all steps done."""
        step = saved_step(self.folder / "model.safetensors")
        return step is not None and step >= self.steps


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is trained.

    Attributes:
        device: as for `--device`.
        environment: variables that keep it to its share of the machine.
    """

    device: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Is told how the runs go."""

    def started(self, job: Job, slot: Slot) -> None: ...

    def reached(self, job: Job, step: int) -> None: ...

    def ended(self, job: Job, error: str | None) -> None: ...


def make_slots(kind: str, device: str, jobs: int | None, gpus: int, cores: int) -> list[Slot]:
    """Where runs are trained: one for each GPU, or one; `jobs` says otherwise.

    Several on one device share the processor's cores, so that none waits for another's threads.

    Args:
        kind: of the device: `cuda`, `cpu` or another.
        device: as `--device` has it; `auto` is the kind.
        jobs: how many; None is as many as there are devices, and cores for them.
        gpus: CUDA devices here.
        cores: that this process may use.

    Raises:
        RequestError: more jobs than cores.
    """
    several = kind == "cuda" and ":" not in device
    alone = kind if device == "auto" else device
    devices = [f"cuda:{i}" for i in range(gpus)] if several and gpus else [alone]
    count = min(len(devices), cores) if jobs is None else jobs
    if count > cores:
        raise RequestError(
            f"--jobs {count} would have more runs than the {cores} cores here: they would only "
            f"slow each other down"
        )
    shared: dict[str, str] = {}
    if count > 1:
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        threads = max(1, cores // count)
        if wanted.isdecimal() and int(wanted):
            threads = min(threads, int(wanted))
        # The second is torchrun's word for how many share a machine; loaders' workers go by it.
        shared = {"OMP_NUM_THREADS": str(threads), "LOCAL_WORLD_SIZE": str(count)}
    return [Slot(devices[i % len(devices)], shared) for i in range(count)]


def train_all(
    jobs: Sequence[Job], slots: Sequence[Slot], arguments: Sequence[str], watcher: Watcher
) -> dict[Job, str]:
    """Train runs that are not finished, going on where they stand; gives what failed, and why.

    Each is a process of its own, `img2img run`, so that one that runs out of memory takes no other
    with it, and each has a device of its own. It ends when its standard input does, which is
    closed when this process ends, however that happens.

    Args:
        jobs: in the order in which they begin.
        slots: where; as many are trained at once.
        arguments: for each `img2img run`.
        watcher: is told of all of it.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM, after the runs saved their state.
    """
    waiting, failed = list(jobs), {}
    running: dict[int, _Child] = {}
    done = 0
    try:
        while waiting or running:
            for i, slot in enumerate(slots):
                if waiting and i not in running:
                    running[i] = _Child(waiting.pop(0), slot, arguments)
                    watcher.started(running[i].job, slot)
            time.sleep(PAUSE)
            for i, child in list(running.items()):
                code = child.process.poll()
                watcher.reached(child.job, child.step())
                if code is None:
                    continue
                del running[i]
                child.close()
                error = child.error(code)
                if error is not None:
                    failed[child.job] = error
                done += error is None
                watcher.ended(child.job, error)
    except KeyboardInterrupt:
        _stop(list(running.values()))
        raise Interrupted(
            f"interrupted: {done} of {len(jobs)} runs were finished, {len(running)} saved their "
            f"state and stopped, {len(waiting)} had not begun; the same command goes on from there"
        ) from None
    except BaseException:
        # Whatever ends this, no run outlives it.
        _stop(list(running.values()))
        raise
    return failed


class _Child:
    """A run's process."""

    def __init__(self, job: Job, slot: Slot, arguments: Sequence[str]) -> None:
        self.job = job
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        self._log = job.log.open("wb")
        own = ["--set", f"train.seed={job.seed}", "--device", slot.device]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "img2img", "run", str(job.recipe)),
                *("--out", str(job.folder), "--resume", "--end-with-stdin"),
                *own,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env={**os.environ, **slot.environment},
            # Ctrl-C is for this process, which asks the others in its own way: a run takes a second
            # one for "at once".
            start_new_session=True,
        )

    def step(self) -> int:
        return last_step(self.job.folder / "metrics.jsonl")

    def ask(self) -> None:
        """Ask it to save its state and stop."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()

    def close(self) -> None:
        self.ask()
        self._log.close()

    def error(self, code: int) -> str | None:
        """Why it failed, in its own words; None if it is finished."""
        if code == 0 and self.job.finished():
            return None
        said = self.job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        begin = next((i for i, line in enumerate(said) if line.startswith("error:")), None)
        lines = said[-1:] if begin is None else said[begin:]
        if code < 0:
            lines = [f"it was killed by signal {-code}", *lines]
        reason = " ".join(lines)[:600] or f"it ended with exit code {code}"
        return reason.removeprefix("error: ")


def _stop(children: Sequence[_Child]) -> None:
    """Ask all to stop, and wait; a second Ctrl-C waits no longer."""
    for child in children:
        child.ask()
    try:
        for child in children:
            child.process.wait()
    except KeyboardInterrupt:
        for child in children:
            child.process.kill()
    for child in children:
        child.process.wait()
        child.close()


def last_step(metrics: Path) -> int:
    """The last step in a `metrics.jsonl`; 0 where there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, LookupError, TypeError, RecursionError):
            continue  # being written, or cut
        if isinstance(step, int):
            return step
    return 0
