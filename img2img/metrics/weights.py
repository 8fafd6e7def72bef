"""Weights that metrics need: from a file, or from where torch keeps what it has downloaded."""

from __future__ import annotations

import copy
import functools
import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from img2img.errors import MetricError
from img2img.hub import first_sentence

# Seconds without a byte, after which a server counts as gone.
PATIENCE_S = 30.0

# Of a variant, which is a text, perhaps one of a few.
Make = Callable[[Any, dict[str, Tensor]], nn.Module]


def load_network(make: Make, variant: str, given: str | None, url: str, what: str) -> nn.Module:
    """A network with its weights, on the CPU, whose parameters need no gradients.

    It is read once for as long as its file stays as it is: a run builds its metrics anew for each
    validation. Each caller may move its own; the values are shared, and nobody should change them.

    Args:
        make: from a variant and the file's tensors to the network; a function of a module.
        variant: which of its networks.
        given, url, what: see `find_weights`.

    Raises:
        MetricError: the weights cannot be had, or are another network's.
    """
    file = _find(given, url, what)
    told = file.stat()
    network = _made(make, variant, what, file.absolute(), told.st_size, told.st_mtime_ns)
    # To move a module gives its parameters other values, so each has parameters of its own.
    own: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in network.parameters()
    }
    own |= {id(buffer): buffer for buffer in network.buffers()}
    return copy.deepcopy(network, own)


# FID's and that of LPIPS; a run has no more, and each may take half a gigabyte.
@functools.lru_cache(maxsize=2)
def _made(make: Make, variant: str, what: str, file: Path, size: int, changed: int) -> nn.Module:
    return make(variant, _read(file, what)).requires_grad_(False).eval()


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
    return _read(_find(given, url, what), what)


def _find(given: str | None, url: str, what: str) -> Path:
    """The file of weights, fetched if need be."""
    if given is not None:
        file = Path(given).expanduser()
        if not file.is_file():
            raise MetricError(
                f"weights: there is no file {file}; give that of the weights of {what}, or leave "
                f"weights out to have them downloaded"
            )
        return file
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if kept.is_file():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _patience():
            # Written beside and renamed, after its sum was compared.
            torch.hub.download_url_to_file(url, str(kept), _digits(kept), progress=False)
    # urllib, what it reads answers with, the file system and the comparison have errors each.
    except (OSError, http.client.HTTPException, RuntimeError, ValueError) as error:
        raise MetricError(
            f"the weights of {what} cannot be fetched from {url} ({type(error).__name__}: "
            f"{first_sentence(error)}): fetch them where there is a network, and either put them "
            f'at {kept} or give the file: weights = "path/to/{kept.name}"',
            short=f"the weights of {what} cannot be fetched; asked for by name it says what to do",
        ) from error
    return kept


@contextmanager
def _patience() -> Iterator[None]:
    """Connections made inside end when a server stalls; torch's download sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _digits(file: Path) -> str:
    """The first digits of its SHA-256, which torch's own file names end in."""
    return file.stem.rpartition("-")[2]


def _read(file: Path, what: str) -> dict[str, Tensor]:
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
