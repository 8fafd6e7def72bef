"""A checkpoint file into named tensors, or a message that says what the file is instead."""

from __future__ import annotations

import contextlib
import re
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from img2img.data.opening import open_file
from img2img.data.reading import image_size
from img2img.errors import ImageError, ModelFileError

# What wrappers put before every name: DataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
WANTED = "a generator's weights, such as latest_net_G.pth"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU, in whatever type they were saved.

    No code in the file is run: torch refuses all that is not a tensor or a plain container.

    Raises:
        ModelFileError: the file is missing or something else; the message says what.
    """
    if path.is_dir():
        found = sorted(file.name for file in path.glob("*_net_G*.pth"))
        hint = f"it holds {', '.join(found[:5])}" if found else "it holds no *_net_G.pth"
        raise ModelFileError(f"{path} is a folder; name a checkpoint in it ({hint})")
    if not path.is_file():
        raise ModelFileError(f"there is no file {path}")
    _check_unpacked(path)
    try:
        # An open file: given a path, torch chooses the reader by its suffix.
        with open_file(path) as opened:
            content = torch.load(opened, map_location="cpu", weights_only=True)
    # Readers meet strangers' bytes and raise whatever they like.
    except Exception as error:
        raise ModelFileError(f"{path} {_what_it_is(path, error)}") from error
    return _unwrap(_state_dict(path, content))


def _check_unpacked(path: Path) -> None:
    """Raise a ModelFileError where the parts of a zip file are larger than it: torch packs none."""
    try:
        with zipfile.ZipFile(path) as opened:
            unpacked = sum(part.file_size for part in opened.infolist())
    # No zip file, or one that torch will have something to say of.
    except Exception:
        return
    if unpacked > path.stat().st_size:
        raise ModelFileError(
            f"{path} would unpack to {unpacked:,} bytes, more than it has, and torch.save packs "
            f"nothing: it is damaged, was made to be, or is no checkpoint; wanted are {WANTED}"
        )


def _what_it_is(path: Path, error: Exception) -> str:
    """What a file that torch does not read seems to be, and what to do about it."""
    if isinstance(error, PermissionError):
        return "cannot be opened: no permission"
    with path.open("rb") as opened:
        head = opened.read(9)
    if not head:
        return "is empty; was it copied whole?"
    if int.from_bytes(head[:8], "little") < path.stat().st_size and head[8:] == b"{":
        return (
            "is a safetensors file and not a checkpoint of that project; if it is a bundle, "
            "`img2img infer` takes it as it is"
        )
    try:
        width, height = image_size(path)
        return f"is an image of {width}x{height} pixels; wanted are {WANTED}"
    except ImageError:
        pass
    # These readers meet a stranger's bytes too, and only to describe them.
    with contextlib.suppress(Exception):
        if kind := _archive(path, head):
            return kind
    text = " ".join(str(error).split())
    if found := re.search(r"GLOBAL (\S+)", text):
        return (
            f"holds the Python object {shown(found[1])} and not weights alone. Reading it could "
            f"run code, so it was not read. Where you trust it, save the weights alone: "
            f"torch.save(network.state_dict(), 'latest_net_G.pth')"
        )
    # torch's advice here is to load it after all; only what went wrong matters.
    reason = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
    return (
        f"cannot be read as a PyTorch checkpoint ({type(error).__name__}: {shown(reason)}); it is "
        f"damaged or something else"
    )


def _archive(path: Path, head: bytes) -> str | None:
    """What kind of archive a file is, if it is one."""
    if head.startswith(b"PK"):
        if not zipfile.is_zipfile(path):
            return "begins like a checkpoint, and its end is missing: copy or download it again"
        with zipfile.ZipFile(path) as opened_zip:
            names = [name.rpartition("/")[2] for name in opened_zip.namelist()]
        if "constants.pkl" in names:
            return (
                f"is a TorchScript program, which is code; wanted are {WANTED}, as that project "
                f"saves them"
            )
        if "data.pkl" not in names:
            return f"is a zip file, and none that torch.save wrote; wanted are {WANTED}"
    if tarfile.is_tarfile(path):
        return "is a tar archive; unpack it and name a checkpoint from it"
    return None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """What was read, if it is names and tensors.

    Raises:
        ModelFileError: it is not; the message says what it is.
    """
    if not isinstance(content, Mapping):
        raise ModelFileError(f"{path} holds one {type(content).__name__}; wanted are {WANTED}")
    if not content:
        raise ModelFileError(f"{path} holds no tensors; wanted are {WANTED}")
    if {"state", "param_groups"} <= set(content):
        raise ModelFileError(f"{path} is the state of an optimizer; wanted are {WANTED}")
    parts = [key for key, value in content.items() if isinstance(value, Mapping)]
    if parts:
        fit = [key for key in parts if any(".model." in str(k) for k in content[key])]
        fit = fit or [key for key in parts if any(".conv_block." in str(k) for k in content[key])]
        key = shown(repr(fit[0] if fit else "THE GENERATOR'S KEY"))
        raise ModelFileError(
            f"{path} is a whole training state with the parts {listed(content)}; save the "
            f"generator's weights alone: torch.save(torch.load({str(path)!r}, "
            f"weights_only=True)[{key}], 'latest_net_G.pth')"
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ModelFileError(
                f"{path} is no state dict: {shown(repr(key))} is {type(value).__name__}, not a "
                f"tensor with a name; wanted are {WANTED}"
            )
        plain = value.layout is torch.strided and not value.is_meta and not value.is_quantized
        if not plain or value.is_nested:
            raise ModelFileError(
                f"{path}: {shown(key)} is sparse, quantized or without values; save the network "
                f"as it was before it was compressed"
            )
    return dict(content)


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same without the prefixes that wrappers put before all names."""
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def listed(names: Iterable[object]) -> str:
    """The first few of some names, and how many more there are."""
    all_names = [shown(str(name)) for name in names]
    more = f" and {len(all_names) - 3} more" if len(all_names) > 3 else ""
    return ", ".join(all_names[:3]) + more


def shown(text: str) -> str:
    """What a file says, fit for a terminal: strangers' names may hold anything, at any length."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return plain if len(plain) <= 160 else f"{plain[:150]}..."
