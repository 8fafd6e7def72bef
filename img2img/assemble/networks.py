"""A recipe's names into its task, and its method with networks and losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from img2img.assemble.kept import lost_parts, warn_of_idle
from img2img.assemble.problems import Problems
from img2img.document import KeyPath
from img2img.engine.precision import Resolved, set_precision
from img2img.layers import Activation
from img2img.losses import JudgedLoss
from img2img.methods import Method, WeightedLoss
from img2img.recipe import Recipe
from img2img.registry import Registry
from img2img.tasks.base import Task


def build_networks(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    precision: Resolved,
    *,
    initialize: bool = True,
) -> tuple[Task, Method]:
    """The task and the method with its networks and losses; see `build_training`."""
    task, method, _ = build_training(recipe, registry, device, precision, initialize=initialize)
    return task, method


def build_training(
    recipe: Recipe,
    registry: Registry,
    device: torch.device,
    precision: Resolved,
    *,
    initialize: bool = True,
) -> tuple[Task, Method, list[WeightedLoss]]:
    """The task, the method with its networks, and the losses.

    Args:
        recipe: what to build.
        registry: where its names are looked up.
        device: where the networks go.
        precision: what they compute in.
        initialize: False where weights will be loaded, so that none need be fetched.

    Raises:
        RecipeError: what components refuse, all of it at once.
    """
    problems = Problems(recipe)
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
        wants_classes = getattr(loss, "wants_classes", False)
        if wants_classes and task is not None and activation_of(task) != "softmax":
            problems.add(
                key,
                f"{choice.name} is for tasks whose targets are classes, and those of "
                f"{recipe.task.name!r} are images: use 'l1', or the task 'photo2labels'",
            )
        elif loss is not None and not isinstance(loss, JudgedLoss):
            problems.try_loss(key, choice.name, loss, task)
        if isinstance(loss, nn.Module):
            loss = loss.to(device)
        losses.append(WeightedLoss(name, choice.weight, loss))
    size = recipe.data.crop_size

    def place(network: nn.Module) -> nn.Module:
        return set_precision(network.to(device), precision)

    making = registry.get("generator", recipe.generator.name)
    if task is not None and activation_of(task) != "tanh" and "activation" not in making.takes:
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
            activation=activation_of(task),
            initialize=initialize,
        )
        try_out(network, in_channels, size, out_channels)
        return place(network)

    build_discriminator: Callable[[int], nn.Module] | None = None
    chosen = recipe.discriminator
    if chosen is not None:
        component = registry.get("discriminator", chosen.name)

        def build_discriminator(in_channels: int) -> nn.Module:
            network = component.build(chosen.settings, in_channels=in_channels, image_size=size)
            try_out(network, in_channels, size, None)
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
    if method is not None and not problems.found:
        for lost in lost_parts(method, losses):
            problems.add(("method",), f"{training.name!r}: {lost}")
    problems.raise_any()
    assert task is not None and method is not None
    warn_of_idle(method, losses)
    return task, method, losses


def activation_of(task: Task) -> Activation:
    """What a generator for this task ends in."""
    return "tanh" if getattr(task, "palette", None) is None else "softmax"


def try_out(network: nn.Module, in_channels: int, size: int, out_channels: int | None) -> None:
    """Run a network on shapes alone, so that a misfit is found before the data is read.

    Raises:
        ValueError: it refuses the training crops, or gives another shape than a generator must.
    """
    # Buffers that are not saved are computed with, too, so not `state_dict`.
    tensors = (*network.named_parameters(), *network.named_buffers())
    state = {name: tensor.to("meta") for name, tensor in tensors}
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
