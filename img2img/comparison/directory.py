"""The directory of a comparison: what is in it, and whether it may be written to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from img2img.bundle import saved_step
from img2img.comparison.running import Job
from img2img.comparison.variants import Variant
from img2img.engine import lock
from img2img.engine.directory import RunDirectory
from img2img.engine.lock import RunLock
from img2img.errors import RequestError
from img2img.files import whole_file
from img2img.recipe import Recipe
from img2img.registry import Registry
from img2img.resuming import Difference, check_length, differences, look_back, may_change, table


class ComparisonDirectory:
    """Paths of a comparison and the small files in it.

    VARIANT/variant.toml is what is trained, VARIANT/seed-N/ are run directories, VARIANT/seed-N.log
    is what these runs said; comparison.json, table.md, table.csv and figure.png are the outcome,
    scores.json is what was scored so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcome = path / "comparison.json"
        self.scores = path / "scores.json"
        self.markdown = path / "table.md"
        self.csv = path / "table.csv"
        self.figure = path / "figure.png"

    def recipe(self, variant: Variant) -> Path:
        return self.path / variant.folder / "variant.toml"

    def run(self, variant: Variant, seed: int) -> Path:
        return self.path / variant.folder / f"seed-{seed}"

    def check(self) -> None:
        """Whether a comparison may be written here.

        Raises:
            RequestError: something else is there.
        """
        if not self.path.exists() and not self.path.is_symlink():
            return
        ours = (lock.NAME, self.outcome.name)
        if not self.path.is_dir() or (
            not self.outcome.is_file()
            and any(
                # What a comparison that was killed left half-written.
                p.name not in ours and not p.name.startswith(".partial-")
                for p in self.path.iterdir()
            )
        ):
            raise RequestError(
                f"{self.path} is there and holds no comparison; give another directory with --out"
            )

    def check_runs(
        self, variants: Sequence[Variant], seeds: Sequence[int], registry: Registry
    ) -> None:
        """Whether the runs that are there were started with the same settings.

        Raises:
            RequestError: some were not; names the differences of the first.
        """
        found: list[tuple[Path, list[Difference]]] = []
        there = 0
        for variant in variants:
            for seed in seeds:
                directory = RunDirectory(self.run(variant, seed))
                directory.check(resume=True, fresh=False)
                if not directory.recipe.is_file():
                    continue
                there += directory.model.is_file()
                earlier = look_back(directory, registry).recipe
                if fixed := list(_fixed(earlier, with_seed(variant.recipe, seed))):
                    found.append((directory.path, fixed))
        if not found:
            return
        path, fixed = found[0]
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RequestError(
            f"{path}{others} was started with other settings, and would not be what the table says "
            f"it is:\n{table(fixed)}\n"
            f"In the directory of a comparison there may be more variants, more seeds, other "
            f"metrics, another judge and a larger train.steps. Give another directory with --out; "
            f"or --fresh, which replaces all runs that this command names, {there} of them finished"
        )

    def others(self, variants: Sequence[Variant], seeds: Sequence[int]) -> list[str]:
        """Runs that are here, and are none of these: their folders."""
        asked = {self.run(variant, seed) for variant in variants for seed in seeds}
        there = (path.parent for path in self.path.glob("*/seed-*/recipe.toml"))
        left = [path.relative_to(self.path).as_posix() for path in there if path not in asked]
        return sorted(left)

    def clear(self, variants: Sequence[Variant], seeds: Sequence[int]) -> None:
        """Remove the runs of these variants and seeds, and the outcome; all of that or nothing.

        Raises:
            RequestError: a run is being written to, something else is where it would be, or a link
                leads to it from elsewhere.
        """
        runs = [RunDirectory(self.run(variant, seed)) for variant in variants for seed in seeds]
        for run in runs:
            if not run.path.resolve().is_relative_to(self.path.resolve()):
                raise RequestError(
                    f"{run.path} lies outside of the comparison, behind a link to "
                    f"{run.path.resolve()}: --fresh removes nothing there. Remove the link, or "
                    f"give another directory with --out"
                )
            run.check(resume=False, fresh=True)
        held = [RunLock(run.path) for run in runs if run.path.is_dir()]
        try:
            for lock_of_run in held:
                lock_of_run.take()
            for path in (self.markdown, self.csv, self.figure):
                path.unlink(missing_ok=True)
            if self.outcome.is_file():
                self.write_outcome({})
            for run in runs:
                if run.path.is_dir():
                    run.prepare(fresh=True)
                    # Without it there is no run any more, whose settings the next would have to
                    # have.
                    run.recipe.unlink(missing_ok=True)
        finally:
            for lock_of_run in held:
                lock_of_run.release()

    def read_outcome(self) -> dict[str, Any]:
        """What `comparison.json` says; empty where there is none, or none that can be read."""
        try:
            found = json.loads(self.outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        self.write_text(self.outcome, json.dumps(outcome, indent=2) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """A variant's recipe as one of its runs has it."""
    train = recipe.train.model_copy(update={"seed": seed})
    return dataclasses.replace(recipe, train=train)


def _fixed(before: Recipe, after: Recipe) -> Iterator[Difference]:
    """Differences that would have a run be another than the variant that it stands for.

    More than a run by itself refuses to go on with: it may be finished, and then nothing changes.
    """
    for found in differences(before.to_dict(), after.to_dict()):
        if found.key == "data.root":
            if not _moved(before.data.root, after.data.root):
                yield found
        elif not may_change(found.key) or found.key.startswith("inference."):
            yield found


def _moved(before: str | None, after: str | None) -> bool:
    """Whether a folder of data is the same by another name, or is here and no longer there."""
    old, new = (Path(root or ".").expanduser() for root in (before, after))
    return before == after or (new.exists() and (not old.exists() or old.samefile(new)))


def check_lengths(jobs: Sequence[Job]) -> None:
    """Whether no run is further than it should go.

    Raises:
        RequestError: one is.
    """
    for job in jobs:
        done = saved_step(job.folder / "model.safetensors") or 0
        check_length(done, job.steps, RunDirectory(job.folder))
