"""The directory of a comparison: what is in it, and whether it may be written to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from img2img.bundle import saved_step
from img2img.comparison.running import Job
from img2img.comparison.variants import Variant
from img2img.engine import lock
from img2img.engine.directory import RunDirectory
from img2img.engine.lock import RunLock
from img2img.engine.processes import Processes
from img2img.errors import RequestError
from img2img.files import whole_file
from img2img.recipe import Recipe
from img2img.registry import Registry
from img2img.resuming import check_length, check_same, look_back


class ComparisonDirectory:
    """Paths of a comparison and the small files in it.

    VARIANT/variant.toml is what is trained, VARIANT/seed-N/ are run directories, VARIANT/seed-N.log
    is what these runs said; comparison.json, table.md, table.csv and figure.png are the outcome.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcome = path / "comparison.json"
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
            not self.outcome.is_file() and any(p.name not in ours for p in self.path.iterdir())
        ):
            raise RequestError(
                f"{self.path} is there and holds no comparison; give another directory with --out"
            )

    def check_runs(
        self, variants: Sequence[Variant], seeds: Sequence[int], registry: Registry
    ) -> None:
        """Whether the runs that are there were started with the same settings.

        Raises:
            RequestError: one was not; names the differences.
        """
        for variant in variants:
            for seed in seeds:
                directory = RunDirectory(self.run(variant, seed))
                directory.check(resume=True, fresh=False)
                if directory.recipe.is_file():
                    earlier = look_back(directory, registry)
                    check_same(with_seed(variant.recipe, seed), earlier, directory, Processes())

    def clear(self, variants: Sequence[Variant], seeds: Sequence[int]) -> None:
        """Remove the runs of these variants and seeds, and the outcome.

        Raises:
            RequestError: a run is being written to, or something else is where it would be.
        """
        for path in (self.markdown, self.csv, self.figure):
            path.unlink(missing_ok=True)
        if self.outcome.is_file():
            self.write_outcome({})
        for variant in variants:
            for seed in seeds:
                directory = RunDirectory(self.run(variant, seed))
                directory.check(resume=False, fresh=True)
                if not directory.path.is_dir():
                    continue
                held = RunLock(directory.path)
                held.take()
                try:
                    directory.prepare(fresh=True)
                    # Without it there is no run any more, whose settings the next would have to
                    # have.
                    directory.recipe.unlink(missing_ok=True)
                finally:
                    held.release()

    def read_outcome(self) -> dict[str, Any]:
        """What `comparison.json` says; empty where there is none, or none that can be read."""
        try:
            found = json.loads(self.outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_outcome(self, outcome: dict[str, Any]) -> None:
        self.write_text(self.outcome, json.dumps(outcome, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file whole or not at all."""
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """A variant's recipe as one of its runs has it."""
    train = recipe.train.model_copy(update={"seed": seed})
    return dataclasses.replace(recipe, train=train)


def check_lengths(jobs: Sequence[Job]) -> None:
    """Whether no run is further than it should go.

    Raises:
        RequestError: one is.
    """
    for job in jobs:
        done = saved_step(job.folder / "model.safetensors") or 0
        check_length(done, job.steps, RunDirectory(job.folder))
