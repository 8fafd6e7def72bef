"""Where names become objects: a recipe into a run. `rebuild.py` does the same for a model."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from img2img.assemble.datasets import (
    build_datasets,
    build_source,
    check_pairs,
    judge_of,
    seen_scale,
    still_transform,
    warn_of_scales,
)
from img2img.assemble.metrics import check_count, metrics_of
from img2img.assemble.networks import activation_of, build_networks, build_training
from img2img.assemble.problems import Problems
from img2img.bundle import BundleInfo
from img2img.data.loading import steps_per_epoch
from img2img.data.resources import available_cores, local_processes
from img2img.engine.directory import RunDirectory
from img2img.engine.health import Game
from img2img.engine.precision import resolve_precision
from img2img.engine.processes import Processes
from img2img.engine.run import Plan, Run
from img2img.engine.schedule import Schedule
from img2img.environment import version
from img2img.evaluation.scores import MOST_PAIRS
from img2img.inference import Policy
from img2img.methods import Method, WeightedLoss
from img2img.plugins import Plugins
from img2img.recipe import Recipe, TrainSettings

__all__ = [
    "assemble",
    "build_datasets",
    "build_networks",
    "build_source",
    "judge_of",
    "metrics_of",
    "refuse_broken",
    "still_transform",
    "warn_of_scales",
    "worker_count",
]


def assemble(
    recipe: Recipe,
    plugins: Plugins,
    directory: RunDirectory,
    *,
    device: torch.device,
    precision: str | None = None,
    initialize: bool = True,
    processes: Processes | None = None,
) -> Run:
    """Everything a run needs. Weights are drawn here, from the recipe's seed.

    Args:
        recipe: what to train.
        plugins: where its names are looked up.
        directory: where the run will write; nothing is written here.
        device: where to train.
        precision: `auto`, `float32` or `bfloat16` instead of the recipe's.
        initialize: False where a checkpoint's weights follow, so that none need be fetched.
        processes: those that train together; by default this one alone.

    Raises:
        RecipeError: settings that a component refuses, all of them at once.
        DataError: the data is missing, empty or does not pair up.
    """
    processes = processes or Processes()
    refuse_broken(recipe, plugins)
    resolved = resolve_precision(precision or recipe.train.precision, device)
    # All three, because a plugin may draw from any, and a checkpoint keeps all of them.
    torch.manual_seed(recipe.train.seed)
    random.seed(recipe.train.seed)
    np.random.seed(recipe.train.seed % 2**32)
    task, method, losses = build_training(
        recipe, plugins.registry, device, resolved, initialize=initialize
    )
    build_metrics = metrics_of(recipe, plugins.registry, task)
    with processes.first_on_each_machine():
        # The first lists files and shards, which it keeps for the others.
        data = build_datasets(recipe, plugins.registry, task)
    check_count(recipe, build_metrics, len(data.validation), MOST_PAIRS)
    sizes = check_pairs(data.train.pairs, recipe, task)
    scale = [1.0, 1.0]
    if recipe.data.resize:
        scale = seen_scale(sizes, recipe.data.test_size or recipe.data.crop_size)
    train = recipe.train
    per_epoch = steps_per_epoch(len(data.train), train.batch_size * processes.world_size)
    plan = Plan(
        total_steps=train.steps or (train.epochs or 0) * per_epoch,
        batch_size=train.batch_size,
        seed=train.seed,
        log_every=train.log_every,
        sample_every=train.sample_every,
        checkpoint_every=train.checkpoint_every,
        validate_every=_validate_every(train),
        sample_count=train.sample_count,
        keep_checkpoints=train.keep_checkpoints,
        schedule=_schedule(train),
        ema_decay=train.ema_decay,
        capture=train.capture,
        compile=train.compile,
        best_by=train.best_by,
        game=_game(method),
        workers=worker_count(recipe.data.workers, device),
    )
    generator = plugins.registry.get("generator", recipe.generator.name)
    bundle = BundleInfo(
        name=recipe.name,
        task={
            "name": recipe.task.name,
            "settings": recipe.to_dict()["task"],
            "origin": plugins.registry.get("task", recipe.task.name).origin,
        },
        generator={
            "name": recipe.generator.name,
            "settings": recipe.to_dict()["generator"],
            "in_channels": task.source_channels,
            "out_channels": task.target_channels,
            "image_size": recipe.data.crop_size,
            "activation": activation_of(task),
            "origin": generator.origin,
        },
        inference={**recipe.inference.model_dump(), "scale": scale},
        trained={"img2img": version(), "recipe": recipe.name},
    )
    for part in (bundle.task, bundle.generator):
        part["settings"].pop("name")
    return Run(
        directory=directory,
        method=method,
        task=task,
        train_pairs=data.train,
        still_pairs=data.still,
        validation_pairs=data.validation,
        build_metrics=build_metrics,
        plan=plan,
        policy=Policy(**bundle.inference),
        device=device,
        bundle=bundle,
        recipe=recipe.to_dict(),
        processes=processes,
        losses=tuple(losses),
    )


def refuse_broken(recipe: Recipe, plugins: Plugins) -> None:
    """Raise a RecipeError for plugins that the recipe requires and that could not be loaded."""
    problems = Problems(recipe)
    for i, requirement in enumerate(recipe.requires):
        name = canonicalize_name(Requirement(requirement).name)
        for origin, reason in plugins.broken.items():
            if canonicalize_name(origin) == name:
                problems.add(("requires", i), f"{requirement} cannot be loaded: {reason}")
    problems.raise_any()


def _validate_every(train: TrainSettings) -> int:
    return train.checkpoint_every if train.validate_every is None else train.validate_every


def _game(method: Method) -> Game | None:
    """The adversarial loss, where the method names just one, and it says what its values mean."""
    entries = getattr(method, "adversarial", ())
    # Another method may use this name for something else.
    if not isinstance(entries, Sequence) or len(entries) != 1:
        return None
    entry = entries[0]
    mode = getattr(entry.loss, "mode", None) if isinstance(entry, WeightedLoss) else None
    return Game(entry.name, mode, entry.weight) if isinstance(mode, str) else None


def _schedule(train: TrainSettings) -> Schedule:
    # A cosine usually begins to fall at once, a line after a while.
    usual = 0.0 if train.schedule == "cosine" else 0.5
    start = usual if train.decay_from is None else train.decay_from
    return Schedule(train.schedule, start, train.decay_every, train.decay_factor)


def worker_count(workers: int | None, device: torch.device) -> int:
    """How many processes load data: as the recipe says, else as suits the device."""
    if workers is not None:
        started, cores = workers * local_processes(), available_cores()
        if started > 2 * cores:
            warnings.warn(
                f"data.workers starts {started} processes on {cores} "
                f"{'core' if cores == 1 else 'cores'}: each takes memory, and more than cores help "
                f"only where a disk is slow",
                RuntimeWarning,
                stacklevel=2,
            )
        return workers
    # On a CPU the step itself wants every core, and another process only takes them away.
    if device.type == "cpu":
        return 0
    # One core of each process's part is for the process itself; more than eight feed no faster.
    return max(1, min(8, available_cores() // local_processes() - 1))
