"""A whole comparison: variants made, trained, scored, and set side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from img2img.assemble import assemble
from img2img.comparison.directory import ComparisonDirectory, check_lengths, with_seed
from img2img.comparison.figure import Column, draw_figure, figure_rows
from img2img.comparison.memory import Memory, Scores, together
from img2img.comparison.pairs import pair_names, validation_pairs
from img2img.comparison.running import Job, Slot, Watcher, train_all
from img2img.comparison.scoring import Scorer
from img2img.comparison.table import Table, make_table, rows_as_json, to_csv, to_markdown
from img2img.comparison.variants import Variant
from img2img.engine.directory import RunDirectory
from img2img.engine.processes import Processes
from img2img.environment import version
from img2img.errors import Img2ImgError, RecipeError
from img2img.plugins import Plugins
from img2img.recipe import Recipe
from img2img.registry import Registry


@dataclass
class Comparison:
    """What is compared, and how far it is.

    Attributes:
        variants: recipes.
        seeds: of the runs of each.
        directory: where all of it is.
        jobs: the runs of each variant, by its name.
        failed: why a run has no model, or no scores.
        reference: said of it in `comparison.json`: the recipe's name, metrics, judge.
        memory: of scores.
        scores: of each run that has any, by metric.
        keys: what the scores of a finished run depend on.
    """

    variants: list[Variant]
    seeds: list[int]
    directory: ComparisonDirectory
    jobs: dict[str, list[Job]]
    reference: dict[str, Any]
    memory: Memory
    failed: dict[Job, str] = field(default_factory=dict)
    scores: dict[Job, dict[str, Scores]] = field(default_factory=dict)
    keys: dict[Job, str] = field(default_factory=dict)

    @property
    def all_jobs(self) -> list[Job]:
        """Every variant's first seed, then the second: what is cut short compares all the same."""
        return [job for of in zip(*self.jobs.values(), strict=True) for job in of]

    @property
    def missing(self) -> dict[str, str]:
        """Why a metric could not be computed for some run, by the metric's name."""
        return {
            name: why for job in self.scores for name, why in self.scores_of(job).failed.items()
        }

    def scores_of(self, job: Job) -> Scores:
        """All scores of a run."""
        return together(self.scores.get(job, {}).values())

    def recipe(self, job: Job) -> Recipe:
        """What a run is trained from."""
        (variant,) = [variant for variant in self.variants if variant.name == job.variant]
        return with_seed(variant.recipe, job.seed)

    def table(self) -> Table:
        """Scores of all runs that have them."""
        higher: dict[str, bool] = {}
        ceiling: dict[str, float] = {}
        runs: dict[str, dict[int, dict[str, float]]] = {}
        for name, jobs in self.jobs.items():
            found = {job.seed: self.scores_of(job) for job in jobs if job in self.scores}
            runs[name] = {seed: of.scores for seed, of in found.items()}
            for of in found.values():
                higher |= of.higher_is_better
                ceiling |= of.ceiling
        return make_table(runs, higher, ceiling, len(self.seeds))

    def left_out(self) -> list[str]:
        """What the table lacks, in sentences."""
        lines = [f"{job.name} failed: {why}" for job, why in self.failed.items()]
        lines += [f"{name} could not be computed: {why}" for name, why in self.missing.items()]
        if skipped := max((self.scores_of(job).skipped for job in self.scores), default=0):
            lines.append(f"{skipped} pairs cannot be read")
        return lines

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values: what `comparison.json` holds."""
        table = self.table()
        cells = rows_as_json(table, list(self.jobs))
        return {
            "img2img": version(),
            **self.reference,
            "seeds": self.seeds,
            "scores": table.scores,
            "ceiling": table.ceiling,
            "variants": [
                {
                    "name": variant.name,
                    "folder": variant.folder,
                    "steps": self.jobs[variant.name][0].steps,
                    "recipe": variant.recipe.to_dict(),
                    "scores": cells[variant.name],
                    "runs": [self._run(job) for job in self.jobs[variant.name]],
                }
                for variant in self.variants
            ],
        }

    def save(self) -> None:
        self.directory.write_outcome(self.as_json())

    def _run(self, job: Job) -> dict[str, Any]:
        about: dict[str, Any] = {
            "seed": job.seed,
            "folder": job.folder.relative_to(self.directory.path).as_posix(),
            "finished": job.finished(),
        }
        if job in self.failed:
            about["error"] = self.failed[job]
        if job in self.scores:
            about |= {"key": self.keys[job], **self.scores_of(job).as_json()}
        return about


def prepare(
    variants: list[Variant],
    seeds: list[int],
    directory: ComparisonDirectory,
    plugins: Plugins,
    reference: Mapping[str, Any],
    scorer: Scorer,
    asked: Collection[str],
    *,
    fresh: bool,
) -> Comparison:
    """Find out whether all variants can be trained and scored here, and write down that they will.

    For whoever holds the directory's lock.

    Args:
        variants: recipes.
        seeds: of the runs of each.
        directory: where all of it is.
        plugins: what recipes may name.
        reference: said of it in `comparison.json`.
        scorer: of the runs.
        asked: metrics that were asked for by name, without which nothing begins.
        fresh: whether runs that are there are replaced.

    Raises:
        RecipeError: settings that components refuse, of all variants, each with its name.
        RequestError, DataError: other settings than before, data that is not there, or metrics or
            a judge that do not suit it.
    """
    if not fresh:
        directory.check_runs(variants, seeds, plugins.registry)
    steps = _steps(variants, seeds, directory, plugins, known=not fresh)
    jobs = {
        variant.name: [
            Job(
                variant.name,
                seed,
                directory.recipe(variant),
                directory.run(variant, seed),
                steps[variant.name],
            )
            for seed in seeds
        ]
        for variant in variants
    }
    memory = Memory(directory.scores)
    made = Comparison(variants, seeds, directory, jobs, dict(reference), memory)
    if not fresh:
        _recall(made, scorer)
    waiting = {job.variant for job in made.all_jobs if _lacking(made, scorer, job)}
    scorer.check([variant for variant in variants if variant.name in waiting], asked)
    if fresh:
        directory.clear(variants, seeds)
    else:
        check_lengths(made.all_jobs)
    # First of all: where this is, and nothing else, the same command can go on.
    made.save()
    for variant in variants:
        path = directory.recipe(variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        directory.write_text(path, variant.recipe.to_toml())
    return made


def _recall(comparison: Comparison, scorer: Scorer) -> None:
    """Take over the scores of finished runs that are known."""
    for job in comparison.all_jobs:
        if not job.finished():
            continue
        try:
            key = comparison.keys[job] = scorer.key(job.folder, comparison.recipe(job))
        except Img2ImgError:
            continue  # it is told of where scores are computed
        known = {name: comparison.memory.get(of) for name, of in scorer.metric_keys(key).items()}
        if found := {name: scores for name, scores in known.items() if scores is not None}:
            comparison.scores[job] = found


def _lacking(comparison: Comparison, scorer: Scorer, job: Job) -> list[str]:
    """The metrics by which a run is not scored yet."""
    return [name for name in scorer.metrics if name not in comparison.scores.get(job, {})]


def _steps(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    directory: ComparisonDirectory,
    plugins: Plugins,
    *,
    known: bool,
) -> dict[str, int]:
    """How many steps each variant's runs have; each is put together once to see that it can be."""
    before: dict[str, int] = {}
    if known:
        for entry in directory.read_outcome().get("variants", []):
            if isinstance(entry, dict) and isinstance(entry.get("steps"), int):
                before[json.dumps(entry.get("recipe"), sort_keys=True)] = entry["steps"]
    found: dict[str, int] = {}
    problems: list[str] = []
    for variant in variants:
        steps = before.get(json.dumps(variant.recipe.to_dict(), sort_keys=True))
        folders = [directory.run(variant, seed) for seed in seeds]
        if steps is not None and all(
            Job(variant.name, 0, Path(), folder, steps).finished() for folder in folders
        ):
            found[variant.name] = steps
            continue
        try:
            run = assemble(
                variant.recipe,
                plugins,
                RunDirectory(folders[0]),
                device=torch.device("cpu"),
                precision="float32",
                initialize=False,
                processes=Processes(),
            )
        except RecipeError as error:
            problems += [f"variant {variant.name}: {problem}" for problem in error.problems]
        else:
            found[variant.name] = run.plan.total_steps
    if problems:
        raise RecipeError(problems)
    return found


def train_runs(
    comparison: Comparison, slots: Sequence[Slot], arguments: Sequence[str], watcher: Watcher
) -> None:
    """Train what is not finished; what fails is written down, and the rest goes on.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM.
    """
    waiting = [job for job in comparison.all_jobs if not job.finished()]
    comparison.failed |= train_all(waiting, slots, arguments, watcher)


def score_runs(
    comparison: Comparison, scorer: Scorer, begin: Callable[[Job, int], Callable[[], None]]
) -> None:
    """Score finished runs whose scores are not known, and keep each as soon as it is.

    One that cannot be scored is written down, and the rest goes on.
    """
    for job in comparison.all_jobs:
        names = _lacking(comparison, scorer, job)
        if not names or not job.finished():
            continue
        recipe = comparison.recipe(job)
        try:
            key = comparison.keys[job] = scorer.key(job.folder, recipe)
            found = scorer.score(job.folder, recipe, names, partial(begin, job))
        except Img2ImgError as error:
            comparison.failed[job] = str(error)
        else:
            keys = scorer.metric_keys(key)
            comparison.memory.add({keys[name]: scores for name, scores in found.items()})
            comparison.scores[job] = {
                name: (comparison.scores.get(job, {}) | found)[name] for name in scorer.metrics
            }
        comparison.save()
    comparison.save()


def write_outcome(
    comparison: Comparison, scorer: Scorer, registry: Registry, rows: int
) -> str | None:
    """Write the tables and the figure, of what is there; gives why there is no figure."""
    directory, table = comparison.directory, comparison.table()
    if not comparison.scores:
        return None
    directory.write_text(directory.markdown, to_markdown(table, comparison.left_out()))
    directory.write_text(directory.csv, to_csv(table))
    columns, keys = [], []
    for jobs in comparison.jobs.values():
        job = next((job for job in jobs if job in comparison.scores), None)
        if job is None:
            continue
        # Where the first seed failed, it is said which one this is.
        title = job.variant if job is jobs[0] else job.name
        recipe = comparison.recipe(job)
        dataset = validation_pairs(recipe, registry)
        columns.append(Column(title, job.folder, dataset, pair_names(recipe, dataset)))
        keys.append([title, comparison.keys[job]])
    key = hashlib.sha256(json.dumps([rows, keys]).encode()).hexdigest()
    if directory.figure.is_file() and comparison.reference.get("figure") == key:
        return None
    lacking = None
    try:
        images = figure_rows(columns, scorer.load, rows)
        draw_figure(directory.figure, images, ["source", *(c.title for c in columns), "target"])
        comparison.reference["figure"] = key
    except Img2ImgError as error:
        # What an earlier command has drawn is of other models, or of other pairs.
        directory.figure.unlink(missing_ok=True)
        comparison.reference["figure"] = None
        lacking = str(error)
    comparison.save()
    return lacking
