"""The bundle: generator weights, and in its metadata all that inference needs."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from img2img.errors import ModelFileError

KEY = "img2img"
FORMAT = 1


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says of itself.

    Attributes:
        name: the run's.
        task: `name` and `settings` of the task.
        generator: `name`, `settings`, the supplied `in_channels`, `out_channels`, `image_size` and
            `activation`, and the `origin` it was registered from.
        inference: the policy, `statistics` and `dropout`.
        trained: step, version of the program and the like, for people.
    """

    name: str
    task: dict[str, Any]
    generator: dict[str, Any]
    inference: dict[str, Any]
    trained: dict[str, Any] = field(default_factory=dict)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all; tensors may lie anywhere, in any layout."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=".safetensors", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        safetensors.torch.save_file(plain, temporary, metadata=metadata)
        # mkstemp makes it private, whatever the umask says.
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_bundle(path: Path, weights: dict[str, Tensor], info: BundleInfo) -> None:
    """Write a bundle, whole or not at all."""
    save_tensors(path, weights, {KEY: json.dumps({"format": FORMAT, **asdict(info)})})


def load_bundle(path: Path) -> tuple[dict[str, Tensor], BundleInfo]:
    """Weights and description of a bundle.

    Raises:
        ModelFileError: it is missing, no safetensors file, or not a bundle of this program.
    """
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            names = opened.keys()  # a method of the file's, which is no dict to iterate over
            weights = {name: opened.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        hint = ""
        if path.suffix in (".pth", ".pt"):
            hint = "; `img2img import` makes one of another project's checkpoint"
        raise ModelFileError(
            f"{path} is not a model: expected a .safetensors bundle or a run directory ({error})"
            f"{hint}"
        ) from error
    if KEY not in metadata:
        raise ModelFileError(
            f"{path} holds tensors but not what this program needs to use them; a bundle is the "
            f"model.safetensors of a run directory"
        )
    try:
        content = json.loads(metadata[KEY])
        version = content.pop("format")
        if version != FORMAT:
            raise ModelFileError(
                f"{path} has bundle format {version}, this program reads {FORMAT}; install the "
                f"version that made it: {content.get('trained', {}).get('img2img', 'a newer one')}"
            )
        info = BundleInfo(**content)
        for part in (info.task, info.generator):
            if not isinstance(part["name"], str) or not isinstance(part["settings"], dict):
                raise TypeError("a component is not a name with settings")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} has a damaged description ({error})") from error
    return weights, info


def saved_step(path: Path) -> int | None:
    """The step whose weights a bundle holds; None where there is no bundle that says so."""
    try:
        step = load_bundle(path)[1].trained.get("step")
    except ModelFileError:
        return None
    return step if isinstance(step, int) else None
