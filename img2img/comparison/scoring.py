"""Scores of the runs of a comparison, kept as long as nothing changes that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from img2img.bundle import find_bundle
from img2img.comparison.checking import check_scoring
from img2img.comparison.running import Job
from img2img.comparison.variants import Variant
from img2img.environment import version
from img2img.errors import RequestError
from img2img.evaluation.choosing import JUDGED, build_metrics, choose
from img2img.evaluation.evaluating import evaluate
from img2img.evaluation.judge import Judge
from img2img.held_out import held_out
from img2img.inference import Translator
from img2img.rebuild import load_translator
from img2img.recipe import Recipe
from img2img.registry import Registry

# Where neither the recipe nor the command says what to score images by.
USUAL = ("l1", "psnr", "ssim")


class Scorer:
    """Scores finished runs on the validation pairs of their own recipe, all of them.

    Args:
        registry: where names are looked up.
        metrics: settings of each, by name.
        judge: a model from photographs to classes, for metrics of classes; None where there is no
            such metric.
        device: of the models.
        precision: of the models.

    Raises:
        RequestError: the judge is none, or is missing.
        ModelFileError: it cannot be loaded.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Mapping[str, Mapping[str, Any]],
        judge: Path | None,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self._registry, self._metrics = registry, metrics
        self._device, self._precision = device, precision
        self._judge: Judge | None = None
        self._judged_by = ""
        if judge is not None:
            file = find_bundle(judge)
            self._judge = Judge(self.load(judge), str(judge))
            self._judged_by = digest(file)

    def check(self, variants: Sequence[Variant], asked: Collection[str]) -> None:
        """Find out before any variant trains whether its runs can be scored.

        Args:
            variants: recipes.
            asked: the metrics that were asked for by name; others may be left out.

        Raises:
            RequestError: one of these cannot be had of the validation pairs, the judge knows other
                classes, or there are no pairs.
        """
        chosen = {name: given for name, given in self._metrics.items() if name in asked}
        check_scoring(variants, self._registry, chosen, self._judge, self._device)

    def key(self, job: Job) -> str:
        """What a run's scores depend on; another key means other scores."""
        said = [
            version(),
            digest(find_bundle(job.folder)),
            self._metrics,
            self._judged_by,
            self._precision,
        ]
        return hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()

    def load(self, folder: Path) -> Translator:
        """The model of a finished run, or the judge."""
        return load_translator(
            folder, self._registry, device=self._device, precision=self._precision
        )

    def score(self, job: Job, begin: Callable[[int], Callable[[], None]]) -> dict[str, Any]:
        """A run's scores as plain values: `scores`, `higher_is_better`, `ceiling` and more.

        Args:
            job: a finished run.
            begin: given how many pairs there are, gives what is called after each.

        Raises:
            Img2ImgError: the model or its data cannot be read.
        """
        translator = self.load(job.folder)
        dataset, _ = held_out(None, job.folder, translator, self._registry)
        palettes = [of.palette for of in (self._judge, translator) if of is not None]
        palette = next((palette for palette in palettes if palette is not None), None)
        kinds = {"images"} if translator.palette is None else set()
        metrics, failed = build_metrics(
            self._metrics,
            self._registry,
            kinds if palette is None else {*kinds, "classes"},
            classes=None if palette is None else len(palette),
        )
        found = evaluate(
            translator, dataset, metrics, judge=self._judge, on_pair=begin(len(dataset))
        )
        return {
            "scores": found.scores,
            "higher_is_better": found.higher_is_better,
            "ceiling": found.ceiling,
            "failed": failed | found.failed,
            "pairs": len(found.images),
            "skipped": len(found.skipped),
        }


def choose_metrics(
    names: Sequence[str], judge: bool, recipe: Recipe, registry: Registry
) -> dict[str, dict[str, Any]]:
    """Settings of the metrics to score by, by name: the recipe's for those that it has.

    Args:
        names: which; none are the recipe's own, or those that suit its task.
        judge: whether there is one, for the FCN-score.
        recipe: of the comparison.
        registry: where names are looked up.

    Raises:
        RequestError: one is not there, or does not suit the task, or needs a judge.
    """
    task = registry.get("task", recipe.task.name).build(recipe.task.settings)
    palette = getattr(task, "palette", None)
    usual = USUAL if palette is None else ("accuracy",)
    wanted = list(dict.fromkeys(names or [choice.name for choice in recipe.metrics] or usual))
    if JUDGED in wanted and palette is None and not judge:
        raise RequestError(
            f"{JUDGED} needs a judge, a model from photographs to label maps: give one with "
            f"--judge, or as compare.judge; img2img run facades-segmenter trains one"
        )
    if judge and palette is not None:
        raise RequestError(
            f"the outputs of {recipe.task.name!r} are classes, which need no judge: leave it out"
        )
    settings = choose(wanted, (), registry, of_recipe=recipe.metrics, judge=judge)
    kinds = {"classes"} if palette is not None else {"images"}
    # How many classes a judge knows does not matter here: only which metrics suit.
    build_metrics(
        settings,
        registry,
        {*kinds, "classes"} if judge else kinds,
        classes=len(palette) if palette is not None else 2 if judge else None,
        asked=names,
    )
    return settings


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached(outcome: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores that an earlier outcome has, by their key."""
    found = {}
    try:
        for variant in outcome.get("variants", []):
            for run in variant["runs"]:
                if isinstance(run.get("key"), str) and isinstance(run.get("scores"), dict):
                    found[run["key"]] = {name: run[name] for name in KEPT}
    except (LookupError, TypeError, AttributeError):
        return {}  # written by another version, or by hand
    return found


KEPT = ("scores", "higher_is_better", "ceiling", "failed", "pairs", "skipped")
