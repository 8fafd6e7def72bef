"""A model file into a translator: the other place where names become objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from img2img.bundle import load_bundle
from img2img.engine.precision import resolve_precision, set_precision
from img2img.errors import ModelFileError
from img2img.inference import Policy, Translator
from img2img.registry import Registry


def load_translator(
    path: Path,
    registry: Registry,
    *,
    device: torch.device,
    precision: str = "float32",
    seed: int = 0,
) -> Translator:
    """A translator from a run directory or a bundle.

    Raises:
        ModelFileError: it is neither, or needs a component that is not here.
    """
    bundle = path / "model.safetensors" if path.is_dir() else path
    if path.is_dir() and not bundle.is_file():
        raise ModelFileError(
            f"{path} holds no model.safetensors; is it a run that has not saved yet?"
        )
    weights, info = load_bundle(bundle)
    task = _rebuild(registry, "task", info.task, bundle)
    described = dict(info.generator)
    supplied = {k: described.get(k) for k in ("in_channels", "out_channels", "image_size")}
    # Bundles of before had no other ending.
    supplied["activation"] = described.get("activation", "tanh")
    network = _rebuild(registry, "generator", described, bundle, initialize=False, **supplied)
    try:
        network.load_state_dict(weights)
        policy = Policy(**info.inference)
    except (RuntimeError, TypeError) as error:
        first = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise ModelFileError(
            f"the weights in {bundle} do not fit its description ({first})"
        ) from error
    set_precision(network.to(device), resolve_precision(precision, device))
    return Translator(network, task, policy, device=device, seed=seed)


def _rebuild(
    registry: Registry, kind: str, described: dict[str, Any], bundle: Path, **supplied: Any
) -> Any:
    name = described["name"]
    try:
        component = registry.get(kind, name)
    except KeyError:
        origin = described.get("origin")
        hint = f"install the plugin {origin}" if origin not in (None, "img2img") else ""
        if str(origin).endswith(".py"):
            hint = f"it came from the file {origin}; give it with --plugin"
        raise ModelFileError(
            f"{bundle} needs the {kind} {name!r}, which is not here: "
            f"{hint or 'install its plugin or give its file with --plugin'}"
        ) from None
    try:
        settings = component.model.model_validate(described["settings"])
        given = {s.name: getattr(settings, s.name) for s in component.settings}
        return component.build(given, **supplied)
    except (ValueError, TypeError) as error:
        raise ModelFileError(
            f"{bundle}: the {kind} {name!r} refuses its settings: {error}"
        ) from error
