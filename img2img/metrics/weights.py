"""Weights that metrics need: from a file, or from where torch keeps what it has downloaded."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor

from img2img.errors import MetricError
from img2img.hub import first_sentence


def find_weights(given: str | None, url: str, what: str) -> dict[str, Tensor]:
    """Tensors by name; nothing in the file is run.

    Args:
        given: a .safetensors file, or a .pth file of tensors alone; None is the download.
        url: of the download, which torch keeps in its cache (TORCH_HOME); the file's name ends in
            the first digits of its SHA-256, which is compared.
        what: the network, for messages.

    Raises:
        MetricError: there is no such file, it cannot be fetched, or it holds something else.
    """
    if given is not None:
        return _read(Path(given).expanduser(), what)
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if kept.is_file():
        return _read(kept, what)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed, after its sum was compared.
        torch.hub.download_url_to_file(url, str(kept), _digits(kept), progress=False)
    # urllib, the file system and the comparison each have errors of their own.
    except (OSError, RuntimeError, ValueError) as error:
        raise MetricError(
            f"the weights of {what} cannot be fetched from {url} ({type(error).__name__}: "
            f"{first_sentence(error)}): fetch them where there is a network, and either put them "
            f'at {kept} or give the file: weights = "path/to/{kept.name}"'
        ) from error
    return _read(kept, what)


def _digits(file: Path) -> str:
    """The first digits of its SHA-256, which torch's own file names end in."""
    return file.stem.rpartition("-")[2]


def _read(file: Path, what: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise MetricError(
            f"weights: there is no file {file}; give that of the weights of {what}, or leave "
            f"weights out to have them downloaded"
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state:
            raise TypeError("it should hold named tensors")
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("it should hold tensors alone")
    # A damaged file makes the readers raise nearly anything.
    except Exception as error:
        raise MetricError(
            f"{file} cannot be read as weights ({type(error).__name__}: {first_sentence(error)}): "
            f"expected the weights of {what}, a .safetensors file or a .pth file of tensors alone"
        ) from error
    return dict(state)


def refuse_misfit(what: str, error: Exception) -> MetricError:
    """What to raise where a file's tensors are those of another network."""
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    reason = first_sentence((lines[1:2] or lines or [""])[0], 120)
    return MetricError(
        f"these are not the weights of {what} ({reason}): give the file that belongs to it, or "
        f"leave weights out to have it downloaded"
    )
