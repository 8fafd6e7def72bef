"""The bundle: generator weights, and in its metadata all that inference needs.

It is one safetensors file, whose description is JSON: to open it runs nothing that it holds.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from img2img.description import BundleInfo, Description, in_short, to_text
from img2img.errors import ModelFileError
from img2img.tensor_file import save_tensors

__all__ = [
    "BundleInfo",
    "OpenBundle",
    "Stored",
    "find_bundle",
    "load_bundle",
    "open_bundle",
    "read_info",
    "save_bundle",
    "saved_step",
]

KEY = "img2img"
# Bytes of a safetensors header, which names every tensor; some 100 thousand of them fit.
LARGEST_HEADER = 16 << 20


@dataclass(frozen=True)
class Stored:
    """A tensor as a header has it: its shape, and safetensors' name of its type, such as `F32`."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OpenBundle:
    """A bundle whose header is read and whose tensors are not.

    Attributes:
        path: the file.
        description: what it says of itself, right or wrong.
        tensors: what it holds, by name.
    """

    path: Path
    description: Description
    tensors: dict[str, Stored]
    _file: Any = field(repr=False)

    def read(self) -> dict[str, Tensor]:
        """All tensors, as they are stored.

        Raises:
            ModelFileError: torch has no such type.
        """
        try:
            return {name: self._file.get_tensor(name) for name in self.tensors}
        except (safetensors.SafetensorError, AttributeError, ValueError) as error:
            raise ModelFileError(
                f"the tensors of {self.path} cannot be read ({in_short(str(error))})"
            ) from error


def save_bundle(path: Path, weights: dict[str, Tensor], info: BundleInfo) -> None:
    """Write a bundle, whole or not at all.

    Raises:
        ModelFileError: the description is none that could be read back.
        OSError: it cannot be written; names `path`.
    """
    save_tensors(path, weights, {KEY: to_text(info)})


def find_bundle(path: Path) -> Path:
    """The bundle of a run directory, or the file itself where it is none.

    Raises:
        ModelFileError: a directory without a bundle.
    """
    try:
        if not path.is_dir():
            return path
        bundle = path / "model.safetensors"
        if bundle.exists():
            return bundle
    # A name that is too long, or a folder that may not be entered.
    except OSError as error:
        raise ModelFileError(f"{path} cannot be opened: {error.strerror}") from error
    raise ModelFileError(f"{path} holds no model.safetensors; is it a run that has not saved yet?")


@contextmanager
def open_bundle(path: Path) -> Iterator[OpenBundle]:
    """Open a bundle and read its header; no tensor is read before it is asked for.

    Raises:
        ModelFileError: it is missing, no safetensors file, or not a bundle of this program.
    """
    _check_header(path)
    try:
        opened = safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _no_model(path, in_short(str(error))) from error
    with opened as file:
        metadata = file.metadata() or {}
        if KEY not in metadata:
            raise ModelFileError(
                f"{path} holds tensors but not what this program needs to use them; a bundle is "
                f"the model.safetensors of a run directory"
            )
        tensors = {}
        for name in file.keys():  # noqa: SIM118  # a method of the file's, which is no dict
            part = file.get_slice(name)
            tensors[name] = Stored(part.get_dtype(), tuple(part.get_shape()))
        yield OpenBundle(path, Description(metadata[KEY], path), tensors, file)


def read_info(path: Path) -> BundleInfo:
    """The description of a bundle, without its weights.

    Raises:
        ModelFileError: see `open_bundle`; or the description has mistakes.
    """
    with open_bundle(path) as opened:
        return opened.description.info()


def load_bundle(path: Path) -> tuple[dict[str, Tensor], BundleInfo]:
    """Weights, as they are stored, and description of a bundle.

    Raises:
        ModelFileError: see `open_bundle`; or the description has mistakes.
    """
    with open_bundle(path) as opened:
        info = opened.description.info()
        return opened.read(), info


def saved_step(path: Path) -> int | None:
    """The step whose weights a bundle holds; None where there is no bundle that says so."""
    try:
        step = read_info(path).trained.get("step")
    except ModelFileError:
        return None
    return step if isinstance(step, int) else None


def _check_header(path: Path) -> None:
    """Raise a ModelFileError unless a regular file begins with a header of a sane length."""
    try:
        found = path.stat()
        # A pipe would wait for a writer, and some devices have no end.
        if not stat.S_ISREG(found.st_mode):
            raise _no_model(path, "it is no regular file")
        with path.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(f"there is no model file {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelFileError(f"{path} cannot be opened: {reason}") from error
    # What is longer than its file is none of safetensors', which says so.
    if LARGEST_HEADER < length <= found.st_size:
        raise ModelFileError(
            f"{path} has a header of {length} bytes, and none needs more than {LARGEST_HEADER}; "
            f"the file is damaged or was made to be"
        )


def _no_model(path: Path, reason: str) -> ModelFileError:
    hint = ""
    if path.suffix in (".pth", ".pt"):
        hint = "; `img2img import` makes one of another project's checkpoint"
    return ModelFileError(
        f"{path} is not a model: expected a .safetensors bundle or a run directory ({reason}){hint}"
    )
