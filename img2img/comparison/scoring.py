"""Scores of the runs of a comparison, and all that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from img2img.bundle import find_bundle
from img2img.comparison.checking import check_scoring
from img2img.comparison.memory import Scores
from img2img.comparison.pairs import pairs_digest, pairs_settings, validation_pairs
from img2img.comparison.variants import Variant
from img2img.environment import version
from img2img.errors import Img2ImgError, RequestError
from img2img.evaluation.choosing import JUDGED, build_metrics, choose
from img2img.evaluation.evaluating import evaluate
from img2img.evaluation.judge import Judge
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
        self._registry, self.metrics = registry, metrics
        self._device, self._precision = device, precision
        self._judge: Judge | None = None
        self._judged_by = ""
        self._digests: dict[tuple[str | None, str], str] = {}
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
        chosen = {name: given for name, given in self.metrics.items() if name in asked}
        check_scoring(variants, self._registry, chosen, self._judge, self._device)

    def key(self, folder: Path, recipe: Recipe) -> str:
        """What all scores of a run depend on: program, model, pairs, precision.

        Args:
            folder: of a finished run.
            recipe: of the run.

        Raises:
            Img2ImgError: the model or its data cannot be read.
        """
        chosen = {"task": recipe.task, "generator": recipe.generator, "source": recipe.source}
        said = [
            version(),
            digest(find_bundle(folder)),
            self._digest_of_pairs(recipe),
            [self._code(kind, choice.name) for kind, choice in chosen.items()],
            self._precision,
        ]
        return _sum(said)

    def metric_keys(self, key: str) -> dict[str, str]:
        """What the scores of a run by each metric depend on, by the metric's name.

        Args:
            key: of the run.
        """
        found = {}
        for name, settings in self.metrics.items():
            of = getattr(self._registry.get("metric", name).factory, "of", None)
            files = [digest(file) for file in _files_in(settings)]
            judge = "" if of == "images" else self._judged_by
            found[name] = _sum([key, name, settings, files, self._code("metric", name), judge])
        return found

    def _digest_of_pairs(self, recipe: Recipe) -> str:
        where = (recipe.data.root, pairs_settings(recipe))
        if where not in self._digests:
            dataset = validation_pairs(recipe, self._registry)
            self._digests[where] = pairs_digest(recipe, dataset)
        return self._digests[where]

    def _code(self, kind: str, name: str) -> str:
        """What a plugin's component is made of: its file, or the version that is installed."""
        origin = self._registry.get(kind, name).origin
        if Path(origin).is_file():
            return digest(Path(origin))
        try:
            return f"{origin} {importlib.metadata.version(origin)}"
        except importlib.metadata.PackageNotFoundError:
            return origin

    def load(self, folder: Path) -> Translator:
        """The model of a finished run, or the judge."""
        return load_translator(
            folder, self._registry, device=self._device, precision=self._precision
        )

    def score(
        self,
        folder: Path,
        recipe: Recipe,
        names: Collection[str],
        begin: Callable[[int], Callable[[], None]],
    ) -> dict[str, Scores]:
        """A run's scores by each metric, by the metric's name.

        Args:
            folder: of a finished run.
            recipe: of the run.
            names: of the metrics to compute, some of the scorer's.
            begin: given how many pairs there are, gives what is called after each.

        Raises:
            Img2ImgError: the model or its data cannot be read.
        """
        translator = self.load(folder)
        dataset = validation_pairs(recipe, self._registry)
        palettes = [of.palette for of in (self._judge, translator) if of is not None]
        palette = next((palette for palette in palettes if palette is not None), None)
        kinds = {"images"} if translator.palette is None else set()
        metrics, failed = build_metrics(
            {name: given for name, given in self.metrics.items() if name in names},
            self._registry,
            kinds if palette is None else {*kinds, "classes"},
            classes=None if palette is None else len(palette),
        )
        found = evaluate(
            translator, dataset, metrics, judge=self._judge, on_pair=begin(len(dataset))
        )
        failed = failed | found.failed
        made = {}
        for name in names:
            # One that does not suit is not built, and has no scores.
            own = metrics[name].scores if name in metrics else {}
            made[name] = Scores(
                {score: value for score, value in found.scores.items() if score in own},
                {score: up for score, up in found.higher_is_better.items() if score in own},
                {score: value for score, value in found.ceiling.items() if score in own},
                {name: failed[name]} if name in failed else {},
                len(found.images),
                len(found.skipped),
            )
        return made


def make_scorer(
    variants: Sequence[Variant],
    registry: Registry,
    metrics: Mapping[str, Mapping[str, Any]],
    judge: Path | None,
    device: torch.device,
    precision: str,
    *,
    asked: Collection[str],
    named_by: str,
) -> Scorer:
    """A scorer; where its judge is missing, that is told together with what else is.

    Args:
        variants: that will be scored.
        registry, metrics, judge, device, precision: see `Scorer`.
        asked: see `Scorer.check`.
        named_by: who named the judge: `--judge`, or a key of the recipe.

    Raises:
        RequestError: the judge is none, or is missing, or the data is.
    """
    try:
        return Scorer(registry, metrics, judge, device, precision)
    except Img2ImgError as error:
        problems = [str(error)]
    if judge is not None and not judge.exists():
        problems = [
            f"the judge of the FCN-score, {judge} ({named_by}), is not there: `img2img run "
            f"facades-segmenter` trains one for facades, --judge MODEL names another, and --metric "
            f"names scores that need none"
        ]
    chosen = {name: given for name, given in metrics.items() if name in asked and name != JUDGED}
    try:
        check_scoring(variants, registry, chosen, None, device)
    except RequestError as error:
        problems.append(str(error))
    raise RequestError("\n".join(problems))


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
    built, failed = build_metrics(
        settings,
        registry,
        {*kinds, "classes"} if judge else kinds,
        classes=len(palette) if palette is not None else 2 if judge else None,
        asked=names,
    )
    return {name: given for name, given in settings.items() if name in built or name in failed}


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum(said: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode()).hexdigest()


def _files_in(settings: Mapping[str, Any]) -> list[Path]:
    """Files that settings name, such as weights."""
    found = []
    for value in settings.values():
        # Another text may be no path at all.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            if isinstance(value, str) and (path := Path(value).expanduser()).is_file():
                found.append(path)
    return found
