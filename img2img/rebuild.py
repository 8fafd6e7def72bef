"""A model file into a translator: the other place where names become objects."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from img2img.bundle import OpenBundle, find_bundle, open_bundle
from img2img.component import Component
from img2img.construction import ForWeights, few, misfits, not_finite
from img2img.description import Description
from img2img.engine.precision import resolve_precision, set_full_float32, set_precision
from img2img.errors import ModelFileError
from img2img.hub import first_sentence
from img2img.inference import Policy, Translator
from img2img.inference.policy import lower_precision
from img2img.registry import Registry


def load_translator(
    path: Path,
    registry: Registry,
    *,
    device: torch.device,
    precision: str = "float32",
    seed: int = 0,
    tile: int | None = None,
) -> Translator:
    """A translator from a run directory or a bundle.

    The file may be a stranger's: its description is validated like a recipe, and nothing of its
    size is allocated before its tensors are known to be those of the network that it describes.

    Raises:
        ModelFileError: it is neither, needs a component that is not here, or does not fit together;
            with every mistake in its description.
    """
    bundle = find_bundle(path)
    with open_bundle(bundle) as opened:
        task, network = _rebuild(opened, registry)
        info = opened.description.info()
        try:
            network.load_state_dict(opened.read())
        # A network may ask more of its weights than that they are of its shapes.
        except RuntimeError as error:
            raise ModelFileError(
                f"the weights in {bundle} do not fit its description ({first_sentence(error)})"
            ) from error
    if broken := not_finite(network):
        raise ModelFileError(
            f"the weights in {bundle} hold values that are no finite numbers: {few(broken)}; the "
            f"training had broken down, or the file is damaged"
        )
    resolved = resolve_precision(precision, device)
    network.to(device)
    precise = None
    if resolved == "bfloat16":
        # Left to the program, only images of 8 bits are good enough in less than float32.
        precise = copy.deepcopy(network) if precision == "auto" else None
        lower_precision(set_precision(network, resolved))
    if device.type == "cuda":
        # Float32 results should agree whatever the batch.
        for full in (network if resolved == "float32" else None, precise):
            if full is not None:
                set_full_float32(full)
    policy = Policy(**info.inference)
    return Translator(network, task, policy, device=device, seed=seed, tile=tile, precise=precise)


def _rebuild(opened: OpenBundle, registry: Registry) -> tuple[Any, nn.Module]:
    """The task, and the network without its weights.

    Raises:
        ModelFileError: with every mistake in the description; or the tensors are not its network's.
    """
    description = opened.description
    chosen_task = description.choice("task", registry)
    chosen = description.choice("generator", registry)
    info = description.info()
    assert chosen_task is not None and chosen is not None, "info() has no mistakes to tell"
    task = _construct(description, *chosen_task)
    supplied = {
        key: info.generator[key]
        for key in ("in_channels", "out_channels", "image_size", "activation")
        if info.generator.get(key) is not None
    }
    if task is not None:
        for key, of_task in (("in_channels", "source"), ("out_channels", "target")):
            wanted = getattr(task, f"{of_task}_channels")
            if supplied[key] != wanted:
                description.problem(
                    f"generator.{key} is {supplied[key]}, and {of_task}s of the task "
                    f"{info.task['name']!r} have {wanted}"
                )
    supplied["initialize"] = False
    # Without memory at first: that its tensors are those of the file is what makes its size right.
    with torch.device("meta"), ForWeights(len(opened.tensors)):
        skeleton = _construct(description, *chosen, **supplied)
    if skeleton is None and chosen[0].origin != "img2img":
        # A plugin's may need values, and is the user's own code.
        description.problems.pop()
    description.raise_any()
    if skeleton is not None:
        _check_fit(skeleton, opened)
    with ForWeights(len(opened.tensors)):
        network = _construct(description, *chosen, **supplied)
    description.raise_any()
    _check_fit(network, opened)
    return task, network


def _construct(
    description: Description, component: Component, settings: dict[str, Any], **supplied: Any
) -> Any:
    """The component, or None and one more mistake in the description."""
    try:
        return component.build(settings, **supplied)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    # Whatever torch, timm or a plugin has against settings that no recipe would have let through.
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in str(error):
            raise  # the CPU's allocator has no type of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        description.problem(
            f"the {component.kind} {component.name!r} refuses its settings: {reason}"
        )
        return None


def _check_fit(network: nn.Module, opened: OpenBundle) -> None:
    if reasons := misfits(network, opened.tensors):
        raise ModelFileError(
            f"the weights in {opened.path} do not fit its description: {'; '.join(reasons)}"
        )
