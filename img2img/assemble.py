"""Where names become objects: a recipe into a run. `rebuild.py` does the same for a model."""

from __future__ import annotations

import contextlib
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import nn

from img2img.bundle import BundleInfo
from img2img.component import Component
from img2img.data.images import Image, Split
from img2img.data.loading import PairDataset, steps_per_epoch
from img2img.data.source import PairSource
from img2img.document import KeyPath
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.engine.precision import Resolved, resolve_precision, set_precision
from img2img.engine.run import Plan, Run
from img2img.engine.schedule import Schedule
from img2img.environment import version
from img2img.errors import ImageError, RecipeError
from img2img.evaluation.scores import spread
from img2img.inference import Policy
from img2img.layers import Activation
from img2img.losses import JudgedLoss
from img2img.methods import Method, WeightedLoss
from img2img.plugins import Plugins
from img2img.recipe import Choice, Recipe, TrainSettings
from img2img.registry import Registry
from img2img.table import dotted
from img2img.tasks.base import Task


@dataclass(frozen=True)
class Datasets:
    """The three views a run has of its data; see `Run`."""

    train: PairDataset
    still: PairDataset
    validation: PairDataset


def assemble(
    recipe: Recipe,
    plugins: Plugins,
    directory: RunDirectory,
    *,
    device: torch.device,
    precision: str | None = None,
) -> Run:
    """Everything a run needs. Weights are drawn here, from the recipe's seed.

    Args:
        recipe: what to train.
        plugins: where its names are looked up.
        directory: where the run will write; nothing is written here.
        device: where to train.
        precision: `auto`, `float32` or `bfloat16` instead of the recipe's.

    Raises:
        RecipeError: settings that a component refuses, all of them at once.
        DataError: the data is missing, empty or does not pair up.
    """
    refuse_broken(recipe, plugins)
    resolved = resolve_precision(precision or recipe.train.precision, device)
    torch.manual_seed(recipe.train.seed)
    # Weights of a checkpoint follow, so none need be fetched for a run that goes on.
    fresh = not find_checkpoints(directory)
    task, method = build_networks(recipe, plugins.registry, device, resolved, initialize=fresh)
    data = build_datasets(recipe, plugins.registry, task)
    scale = [1.0, 1.0]
    if recipe.data.resize:
        scale = seen_scale(data.train.pairs, recipe.data.test_size or recipe.data.crop_size)
    train = recipe.train
    per_epoch = steps_per_epoch(len(data.train), train.batch_size)
    plan = Plan(
        total_steps=train.steps or (train.epochs or 0) * per_epoch,
        batch_size=train.batch_size,
        seed=train.seed,
        log_every=train.log_every,
        sample_every=train.sample_every,
        checkpoint_every=train.checkpoint_every,
        validate_every=train.validate_every,
        sample_count=train.sample_count,
        keep_checkpoints=train.keep_checkpoints,
        schedule=_schedule(train),
        ema_decay=train.ema_decay,
        workers=_worker_count(recipe.data.workers, device),
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
            "activation": _activation(task),
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
        plan=plan,
        policy=Policy(**bundle.inference),
        device=device,
        bundle=bundle,
        recipe=recipe.to_dict(),
    )


def refuse_broken(recipe: Recipe, plugins: Plugins) -> None:
    """Raise a RecipeError for plugins that the recipe requires and that could not be loaded."""
    problems = _Problems(recipe)
    for i, requirement in enumerate(recipe.requires):
        name = canonicalize_name(Requirement(requirement).name)
        for origin, reason in plugins.broken.items():
            if canonicalize_name(origin) == name:
                problems.add(("requires", i), f"{requirement} cannot be loaded: {reason}")
    problems.raise_any()


def build_networks(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    precision: Resolved,
    *,
    initialize: bool = True,
) -> tuple[Task, Method]:
    """The task and the method with its networks and losses.

    Args:
        recipe: what to build.
        registry: where its names are looked up.
        device: where the networks go.
        precision: what they compute in.
        initialize: False where weights will be loaded, so that none need be fetched.

    Raises:
        RecipeError: what components refuse, all of it at once.
    """
    problems = _Problems(recipe)
    task: Task | None = problems.build(
        ("task",), registry.get("task", recipe.task.name), recipe.task
    )
    losses = []
    names: dict[str, int] = {}
    for i, choice in enumerate(recipe.losses):
        key: KeyPath = ("losses", i)
        loss = problems.build(key, registry.get("loss", choice.name), choice)
        names[choice.name] = names.get(choice.name, 0) + 1
        count = names[choice.name]
        name = choice.name if count == 1 else f"{choice.name}_{count}"
        if loss is not None and not isinstance(loss, JudgedLoss):
            problems.try_loss(key, choice.name, loss, task)
        if isinstance(loss, nn.Module):
            loss = loss.to(device)
        losses.append(WeightedLoss(name, choice.weight, loss))
    size = recipe.data.crop_size

    def place(network: nn.Module) -> nn.Module:
        return set_precision(network.to(device), precision)

    making = registry.get("generator", recipe.generator.name)
    if task is not None and _activation(task) != "tanh" and "activation" not in making.takes:
        problems.add(
            ("generator",),
            f"the task {recipe.task.name!r} wants class probabilities, and {making.name!r} gives "
            f"images: use another generator, such as 'unet'",
        )
        problems.raise_any()

    def build_generator(in_channels: int, out_channels: int) -> nn.Module:
        assert task is not None
        network = making.build(
            recipe.generator.settings,
            in_channels=in_channels,
            out_channels=out_channels,
            image_size=size,
            activation=_activation(task),
            initialize=initialize,
        )
        _try_out(network, in_channels, size, out_channels)
        return place(network)

    build_discriminator: Callable[[int], nn.Module] | None = None
    chosen = recipe.discriminator
    if chosen is not None:
        component = registry.get("discriminator", chosen.name)

        def build_discriminator(in_channels: int) -> nn.Module:
            network = component.build(chosen.settings, in_channels=in_channels, image_size=size)
            _try_out(network, in_channels, size, None)
            return place(network)

    training = registry.get("method", recipe.method.name)
    if chosen is not None and "build_discriminator" not in training.takes:
        problems.add(
            ("discriminator",), f"the method {training.name!r} uses none; leave the table out"
        )
    method: Method | None = None
    if task is not None:
        method = problems.build(
            ("method",),
            training,
            recipe.method,
            build_generator=problems.watch("generator", build_generator),
            build_discriminator=build_discriminator
            and problems.watch("discriminator", build_discriminator),
            losses=losses,
            source_channels=task.source_channels,
            target_channels=task.target_channels,
            conditional=recipe.conditional,
        )
    problems.raise_any()
    assert task is not None and method is not None
    return task, method


def build_datasets(recipe: Recipe, registry: Registry, task: Task) -> Datasets:
    """The pairs to train on, augmented and not, and those held out.

    Raises:
        DataError: the data is missing, empty or does not pair up.
        RecipeError: settings that the source refuses.
    """
    # Here, because `infer` needs none of albumentations and would wait a second for it.
    from img2img.data.augmentation import Augmentation, ColorChange, use_one_thread

    use_one_thread()
    data = recipe.data
    assert data.test_size is not None
    if data.load_size is not None and data.load_size > 1.5 * data.test_size:
        warnings.warn(
            f"training sees crops of {data.crop_size} out of {data.load_size} pixels, validation "
            f"whole images at {data.test_size}: things differ in size. Lower data.load_size (left "
            f"out, it follows crop_size), or set data.test_size",
            RuntimeWarning,
            stacklevel=2,
        )
    train, held_out = (build_source(recipe, registry, split) for split in ("train", "val"))
    derive = getattr(train, "degrade", None)
    swap = data.direction == "BtoA"
    if derive is not None and swap:
        problems = _Problems(recipe)
        problems.add(
            ("data", "direction"),
            "the source is made from the target here, so it can only be AtoB",
        )
        problems.raise_any()
    prepare = partial(
        Augmentation,
        source_interpolation=task.source_interpolation,
        target_interpolation=task.target_interpolation,
        derive=derive,
    )
    augment = prepare(
        data.load_size,
        data.crop_size,
        mirror=data.mirror,
        rotate=data.rotate,
        color=ColorChange(**data.source_color.model_dump()),
    )
    still = prepare(data.test_size if data.resize else None, data.test_size, center=True)

    def dataset(pairs: PairSource, transform: Augmentation) -> PairDataset:
        return PairDataset(pairs, task, transform, swap=swap, seed=recipe.train.seed)

    return Datasets(
        train=dataset(train, augment),
        still=dataset(train, still),
        validation=dataset(held_out, still),
    )


def build_source(recipe: Recipe, registry: Registry, split: Split) -> PairSource:
    """The pairs of one split as the recipe's source gives them.

    Raises:
        DataError: the data is missing, empty or does not pair up.
        RecipeError: settings that the source refuses.
    """
    problems = _Problems(recipe)
    component = registry.get("source", recipe.source.name)
    root = Path(recipe.data.root or ".").expanduser()
    source: PairSource | None = problems.build(
        ("data",), component, recipe.source, root=root, split=split
    )
    problems.raise_any()
    assert source is not None
    return source


def _schedule(train: TrainSettings) -> Schedule:
    # A cosine usually begins to fall at once, a line after a while.
    usual = 0.0 if train.schedule == "cosine" else 0.5
    start = usual if train.decay_from is None else train.decay_from
    return Schedule(train.schedule, start, train.decay_every, train.decay_factor)


def _activation(task: Task) -> Activation:
    """What a generator for this task ends in."""
    return "tanh" if getattr(task, "palette", None) is None else "softmax"


def seen_scale(pairs: PairSource, test_size: int) -> list[float]:
    """Factors on width and height by which validation resizes a typical training image.

    The bundle carries them, so that a folder of the same kind is translated as validation was.
    """
    sizes = []
    for index in spread(len(pairs), 16):
        with contextlib.suppress(ImageError):
            sizes.append(pairs.pair(index)[0].shape[1::-1])
    if not sizes:
        return [1.0, 1.0]
    return [test_size / statistics.median(side) for side in zip(*sizes, strict=True)]


class _Problems:
    """Collects what components refuse, each with file and line of its table in the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.found: list[str] = []

    def add(self, key: KeyPath, message: object) -> None:
        self.found.append(f"{self.recipe.where(key)}: {dotted(key)}: {message}")

    def build(self, key: KeyPath, component: Component, choice: Choice, **supplied: Any) -> Any:
        try:
            return component.build(choice.settings, **supplied)
        except _RefusalError as refused:
            self.add((refused.table,), refused)
        except ValueError as error:
            self.add(key, error)
        return None

    def try_loss(self, key: KeyPath, name: str, loss: Any, task: Task | None) -> None:
        """Call a reconstruction loss once, so that one that refuses the crops says so now."""
        if task is None:
            return
        size = self.recipe.data.crop_size
        blank = torch.zeros(2, task.target_channels, size, size)
        try:
            with torch.no_grad():
                value = loss(blank, blank)
        except ValueError as error:
            self.add(key, f"{name}: {error}")
        except Exception as error:
            self.add(key, f"{name} fails on {tuple(blank.shape)}: {type(error).__name__}: {error}")
        else:
            if not isinstance(value, torch.Tensor) or value.ndim != 0:
                self.add(key, f"{name} should give a scalar tensor, one number for the batch")

    def watch(self, table: str, builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """The builder, its refusals marked with their own table rather than the method's."""

        def build(*args: int) -> nn.Module:
            try:
                return builder(*args)
            except ValueError as error:
                raise _RefusalError(table, error) from error

        return build

    def raise_any(self) -> None:
        if self.found:
            raise RecipeError(self.found)


class _RefusalError(Exception):
    """A network's own message, on its way out through the method that wanted it."""

    def __init__(self, table: str, error: ValueError) -> None:
        self.table = table
        super().__init__(str(error))


def _try_out(network: nn.Module, in_channels: int, size: int, out_channels: int | None) -> None:
    """Run a network on shapes alone, so that a misfit is found before the data is read.

    Raises:
        ValueError: it refuses the training crops, or gives another shape than a generator must.
    """
    state = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    images = torch.empty(2, in_channels, size, size, device="meta")
    try:
        with torch.no_grad():
            output = torch.func.functional_call(network, state, (images,))
    except ValueError:
        raise
    # A stranger's forward may raise anything; whose it is helps more than a traceback of ours.
    except Exception as error:
        raise ValueError(
            f"{type(network).__name__} fails on images {tuple(images.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, torch.Tensor):
        raise ValueError(
            f"{type(network).__name__} gives {type(output).__name__}, and should give one tensor"
        )
    wanted = (2, out_channels, size, size)
    if out_channels is not None and tuple(output.shape) != wanted:
        raise ValueError(
            f"{type(network).__name__} turns {tuple(images.shape)} into {tuple(output.shape)}, and "
            f"should give {wanted}"
        )


def _worker_count(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return workers
    # On a CPU the step itself wants every core, and another process only takes them away.
    return 0 if device.type == "cpu" else 4
