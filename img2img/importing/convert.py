"""A recognised checkpoint into a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from img2img.bundle import BundleInfo, save_bundle
from img2img.environment import version
from img2img.errors import ModelFileError, RequestError
from img2img.importing.architecture import (
    COUNT,
    NORM_STATISTICS,
    NORM_WEIGHTS,
    Architecture,
    recognise,
)
from img2img.importing.reading import read_tensors
from img2img.registry import Registry

PROJECT = "junyanz/pytorch-CycleGAN-and-pix2pix"
DROPOUT = 0.5
RESNET_SIZE = 256


@dataclass(frozen=True)
class Imported:
    """What became of a checkpoint.

    Attributes:
        path: the bundle.
        info: what the bundle says of itself.
        architecture: the network that was found.
        parameters: how many it has.
    """

    path: Path
    info: BundleInfo
    architecture: Architecture
    parameters: int


def import_checkpoint(
    path: Path,
    out: Path,
    registry: Registry,
    *,
    name: str | None = None,
    statistics: Literal["image", "running"] = "image",
    dropout: bool | None = None,
    size: int | None = None,
    overwrite: bool = False,
) -> Imported:
    """Turn a generator's checkpoint of pytorch-CycleGAN-and-pix2pix into a bundle.

    Args:
        path: its `*_net_G.pth`, a U-Net or a ResNet.
        out: the bundle, written whole or not at all.
        registry: where the generators and tasks are.
        name: what the bundle calls itself; the bundle's file name unless given.
        statistics: `image` as that project's `test.py` does by default, `running` as with `--eval`.
        dropout: keep it on; None does so where the file shows that there was some.
        size: of the training crops, in pixels; what the network was made for unless given.
        overwrite: replace a bundle that is there.

    Raises:
        ModelFileError: the file is something else, or not whole.
        RequestError: what was asked for does not fit the file, or `out` cannot be written.
    """
    if out.is_dir():
        raise RequestError(f"{out} is a folder; name the bundle: {out / path.stem}.safetensors")
    if out.exists():
        if not overwrite:
            raise RequestError(f"{out} is already there; use --overwrite or another name")
        if path.exists() and out.samefile(path):
            raise RequestError(f"{out} is the checkpoint itself; give the bundle another name")
    tensors = read_tensors(path)
    found = recognise(tensors, path)
    task, task_settings = _task_of(found, path)
    settings, stays = _settings_of(found, dropout)
    size = size or (2**found.depth if found.depth else RESNET_SIZE)
    component = registry.get("generator", found.generator)
    supplied = {"in_channels": found.in_channels, "out_channels": found.out_channels}
    try:
        # On the meta device: shapes are wanted, and a damaged file may ask for any number.
        with torch.device("meta"):
            network = component.build(settings, image_size=size, **supplied)
    except ValueError as error:
        raise RequestError(
            f"{path} is a {found}, which cannot be built for --size {size}: {error}"
        ) from error
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    weights = _converted(tensors, found, shapes, path)
    info = BundleInfo(
        name=name or out.stem,
        task={
            "name": task,
            "settings": task_settings,
            "origin": registry.get("task", task).origin,
        },
        generator={
            "name": found.generator,
            "settings": {**component.defaults, **settings},
            **supplied,
            "image_size": size,
            "activation": "tanh",
            "origin": component.origin,
        },
        inference={"statistics": statistics, "dropout": stays, "scale": [1.0, 1.0]},
        trained={
            "img2img": version(),
            "imported_from": PROJECT,
            "file": path.name,
            "sha256": _sha256(path),
        },
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_bundle(out, weights, info)
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror or error}") from error
    return Imported(out, info, found, sum(p.numel() for p in network.parameters()))


def _task_of(found: Architecture, label: object) -> tuple[str, dict[str, Any]]:
    """How images reach such a network, by its channels."""
    channels = found.in_channels, found.out_channels
    if channels[0] in (1, 3) and channels[1] in (1, 3):
        return "paired", {"source_channels": channels[0], "target_channels": channels[1]}
    if channels == (1, 2):
        # Lightness to a and b, scaled there as here.
        return "colorization", {}
    raise ModelFileError(
        f"{label} is a {found} that turns {channels[0]} channels into {channels[1]}, and no task "
        f"here makes images of that: 1 (grey) or 3 (RGB) each, or 1 to 2 (Lab colorization) can be "
        f"imported"
    )


def _settings_of(found: Architecture, dropout: bool | None) -> tuple[dict[str, Any], bool]:
    """The generator's settings, and whether dropout stays on."""
    settings: dict[str, Any] = {"width": found.width, "norm": found.norm}
    if found.generator == "resnet":
        if dropout and not found.dropout:
            raise RequestError(
                "this ResNet was trained without dropout, as its tensors show; leave --dropout out"
            )
        settings |= {"blocks": found.blocks, "dropout": DROPOUT if found.dropout else 0.0}
        return settings, bool(found.dropout) if dropout is None else dropout
    # There it is in the layers that are neither innermost nor among the outer four.
    layers = list(range(2, found.depth - 3))
    if dropout and not layers:
        raise RequestError(
            f"a U-Net of depth {found.depth} has no dropout in that project; leave --dropout out"
        )
    settings |= {"depth": found.depth, "innermost_norm": False}
    settings |= {"dropout": DROPOUT if dropout else 0.0}
    if dropout:
        settings["dropout_layers"] = layers
    return settings, bool(dropout)


def _converted(
    tensors: Mapping[str, Tensor],
    found: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
    label: object,
) -> dict[str, Tensor]:
    """The weights under our names, in float32.

    Raises:
        ModelFileError: a tensor has another shape than such a network's, or holds no numbers.
    """
    weights: dict[str, Tensor] = {}

    def take(theirs: str, ours: str) -> None:
        tensor = tensors[theirs]
        if tuple(tensor.shape) != shapes[ours]:
            raise ModelFileError(
                f"{label}: {theirs} has shape {tuple(tensor.shape)}, and a {found} has "
                f"{shapes[ours]} there; the file is damaged or from a changed network"
            )
        weights[ours] = _plain(tensor, theirs, label)

    for layer in found.layers:
        take(f"{layer.conv}.weight", f"{layer.our_conv}.weight")
        bias = f"{layer.our_conv}.bias"
        if f"{layer.conv}.bias" in tensors:
            take(f"{layer.conv}.bias", bias)
        elif bias in shapes:
            # Without a norm ours has a bias where theirs has none, which is one of 0.
            weights[bias] = torch.zeros(shapes[bias])
        if found.norm == "batch" and layer.normed:
            for part in (*NORM_WEIGHTS, *NORM_STATISTICS):
                take(f"{layer.norm}.{part}", f"{layer.our_norm}.{part}")
            # How many batches there were is of no use to a finished network, and old files lack it.
            weights[f"{layer.our_norm}.{COUNT}"] = torch.tensor(0)
    return weights


def _plain(tensor: Tensor, name: str, label: object) -> Tensor:
    """A float32 copy of a tensor that holds a number for each of its places."""
    if not tensor.is_floating_point():
        raise ModelFileError(
            f"{label}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, and weights are "
            f"floating point numbers; save the network before it is quantized"
        )
    # Views may repeat a few numbers without end; copied, they would fill the memory.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ModelFileError(
            f"{label}: {name} of shape {tuple(tensor.shape)} is larger than what the file holds of "
            f"it; the file is damaged"
        )
    plain = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise ModelFileError(
            f"{label}: {name} holds values that are no finite numbers, so the training had broken "
            f"down; take an earlier checkpoint of it"
        )
    return plain


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
