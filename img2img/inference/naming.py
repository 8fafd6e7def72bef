"""How results are called, and which formats can hold them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from img2img.data.writing import KINDS
from img2img.errors import RequestError

FORMATS = ("png", "jpg", "webp", "tiff", "npy")
WRITABLE = frozenset(KINDS)
JPEG = frozenset(suffix for suffix, kind in KINDS.items() if kind == "JPEG")
# What can hold class indices with their palette.
INDEXED = frozenset(suffix for suffix, kind in KINDS.items() if kind in ("PNG", "TIFF"))
# How the names of samples and of what is made from them end; see `Naming.files`.
SAMPLE = re.compile(r"(.*[^/])-([1-9][0-9]*|mean|spread)", re.DOTALL)


@dataclass(frozen=True)
class Naming:
    """How results are called, and in which formats they can be.

    Attributes:
        suffix: of every result, such as `.png`; None keeps each input's own if it can hold it.
        channels: of the results, in a model that gives images.
        indexed: results are class indices, with a palette.
        samples: 0 for one result an image, `a.png`; else as many, `a-1.png`, `a-2.png`, ...
        extras: what is made of the samples, `mean` and `spread`, each with a file `a-mean.png`.
    """

    suffix: str | None = None
    channels: int = 3
    indexed: bool = False
    samples: int = 0
    extras: tuple[str, ...] = ()

    @property
    def holds(self) -> frozenset[str]:
        """Suffixes of the formats that can hold the results."""
        if self.indexed:
            return INDEXED
        if self.channels in (1, 3):
            return WRITABLE
        if self.channels in (2, 4):
            return WRITABLE - JPEG
        return frozenset({".tif", ".tiff", ".npy"})

    def rename(self, name: str) -> str:
        """The name of the result of a file of this name."""
        stem, suffix = split_suffix(name)
        if self.suffix is not None:
            return name if same_format(suffix, self.suffix) else stem + self.suffix
        if suffix.lower() in self.holds:
            return name
        return stem + (".png" if ".png" in self.holds else ".tiff")

    def files(self, output: Path) -> tuple[Path, ...]:
        """The files of one image, where its only result would be `output`."""
        if not self.samples:
            return (output,)
        stem, suffix = split_suffix(output.name)
        kinds = (*range(1, self.samples + 1), *self.extras)
        return tuple(output.with_name(f"{stem}-{kind}{suffix}") for kind in kinds)

    def check(self, suffix: str, wanted: str) -> None:
        """Refuse a format that cannot hold the results.

        Args:
            suffix: of the format.
            wanted: how it was asked for.

        Raises:
            RequestError: it cannot.
        """
        if suffix.lower() in self.holds:
            return
        gives = "classes" if self.indexed else f"{self.channels} channels"
        exactly = " exactly" if self.indexed else ""
        formats = [name for name in FORMATS if f".{name}" in self.holds]
        way_out = f"use --format {' or '.join(formats)}, or leave it out"
        if not wanted.startswith("--"):
            way_out = f"end the output in {' or '.join(f'.{name}' for name in formats)}"
        raise RequestError(
            f"this model gives {gives}, and {wanted} cannot hold them{exactly}: {way_out}"
        )


def split_suffix(name: str) -> tuple[str, str]:
    """A name in two parts, the second its suffix with the dot, or nothing."""
    suffix = PurePath(name).suffix
    return name[: len(name) - len(suffix)], suffix


def same_format(one: str, other: str) -> bool:
    """Whether two suffixes are of one format."""
    one, other = one.lower(), other.lower()
    return one == other or (one in KINDS and KINDS[one] == KINDS.get(other))
