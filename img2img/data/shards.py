"""Pairs in tar files, each image read from where it lies."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from img2img.data.images import Part, hold_out
from img2img.data.kept_files import texts_in
from img2img.data.limits import BESIDE, BYTES_PER_PIXEL, over_limit, pixel_limit
from img2img.data.reading import decode, reason_of
from img2img.data.sequences import SplitOf
from img2img.data.shard_index import called_in, find_pairs
from img2img.data.side_by_side import split_halves
from img2img.errors import DataError, ImageError
from img2img.picture import Pixels, UnusableError, fit_picture

# Windows of the sampler are of a few shards; a process may have 1,024 files open, or fewer.
OPEN_FILES = 32
# Without waiting, or a pipe that took a file's place would be waited for.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
# What may lie between the two images of a pair and be read with them: headers, texts.
_GAP = 1 << 16
# Rows that a fingerprint is taken of at once, so that it takes no memory for millions.
_ROWS = 1 << 16

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "test": "test",
}


class Shards:
    """Tar files in the layout of WebDataset: what is named alike up to the first dot is a pair.

    `000123.source.jpg` and `000123.target.png` are one; other members, such as texts, are passed
    over. `root` holds tar files below `train/` and `val/` (or `test/`), or `train-*.tar` and
    `val-*.tar`, or is one tar file. Without any to validate on, every tenth pair is held out,
    and all of them are `scored`. Nothing is unpacked. Where the images lie is found out once and
    kept; the tar files are looked through again when one has another size or date.

    Args:
        first: what the first images are called behind the first dot of their names, with or without
            the suffix of images; empty where nothing but that suffix is there.
        second: the same of the second images; empty where one image holds both, side by side.

    Raises:
        DataError: there are no tar files, or one is compressed or damaged, or lacks an image of a
            pair.
    """

    def __init__(
        self,
        root: Path,
        split: Part,
        channels: tuple[int, int] = (3, 3),
        *,
        first: str = "source",
        second: str = "target",
    ) -> None:
        if first == second and first:
            raise DataError(f"data.second: {second!r} is what the first images are called")
        files, is_held_out = _files(root, split)
        self.files, self.channels = files, channels
        self.states = [_state(file) for file in files]
        arrays = find_pairs(files, self.states, first, second)
        # Rows of: which file, where and how long the first image, where and how long the second.
        self.rows = arrays["rows"].reshape(-1, 5)
        self.keys = texts_in(arrays, "keys")
        if not len(self.rows):
            # Without a second name, one image holds both.
            wanted = (first, second) if second else (first,)
            called = " and ".join(f"NAME{'.' * bool(each)}{each}.png" for each in wanted)
            raise DataError(
                f"data.root: no pairs in {files[0]}{' and others' * (len(files) > 1)}: looked for "
                f"members called {called} (or with another suffix of images), as "
                f"data.first and data.second say; {called_in(files[0])}"
            )
        everything = range(len(self.rows))
        self.indices = everything if is_held_out else hold_out(everything, split)
        ends = np.cumsum(arrays["counts"]).tolist()
        if isinstance(self.indices, SplitOf):
            ends = [self.indices.before(end) for end in ends]
        self.shards = [b - a for a, b in zip([0, *ends], ends, strict=False) if b > a]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        at = self.indices[index]
        return f"{self.files[self.rows[at, 0]]}:{self.keys[at]}"

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        place = Path(self.name(index))
        shard, *places = self.rows[self.indices[index]].tolist()
        one, other = self._contents(place, shard, *places)
        first = _decoded(one, place, self.channels[0])
        # Before a member lies its header, so that none begins at 0.
        if not places[2]:
            left, right = split_halves(first, place)
            if self.channels[0] != self.channels[1]:
                right = split_halves(_decoded(one, place, self.channels[1]), place)[1]
            return left, right
        second = _decoded(other, place, self.channels[1])
        (height, width), (height2, width2) = first.shape[:2], second.shape[:2]
        if (height, width) != (height2, width2):
            raise ImageError(
                place, f"{width}x{height} pixels, but its partner has {width2}x{height2}", "size"
            )
        return first, second

    def fingerprint(self) -> str:
        """What changes with the names, sizes, number or order of the images in these tar files.

        Neither where the tar files lie, nor what they are called, nor when they were written.
        """
        found = zlib.crc32(self.keys.joined.data)
        for at in range(0, len(self.rows), _ROWS):
            # Which file, and the two sizes.
            found = zlib.crc32(np.ascontiguousarray(self.rows[at : at + _ROWS, ::2]).data, found)
        return f"{found:08x}"

    def _contents(
        self, place: Path, shard: int, at: int, size: int, at2: int, size2: int
    ) -> tuple[bytes, bytes]:
        """The bytes of both images, in one read if they lie together."""
        limit = pixel_limit()
        if limit is not None and max(size, size2) > limit * BYTES_PER_PIXEL + BESIDE:
            raise ImageError(
                place, over_limit(f"{max(size, size2):,} bytes, of {BYTES_PER_PIXEL} a pixel,")
            )
        try:
            file = _opened(str(self.files[shard]), *self.states[shard])
            start, end = min(at, at2), max(at + size, at2 + size2)
            if not at2:
                return file.read(at, size), b""
            if end - start > size + size2 + _GAP:
                return file.read(at, size), file.read(at2, size2)
            data = memoryview(file.read(start, end - start))
        except (OSError, EOFError) as error:
            raise ImageError(place, f"cannot be read ({error})") from error
        return bytes(data[at - start :][:size]), bytes(data[at2 - start :][:size2])


class _Opened:
    """A file that any thread, and a process forked off, may read from; closed when none uses it."""

    def __init__(self, path: str, size: int, changed: int) -> None:
        self.path = path
        self.descriptor = os.open(path, _FLAGS)
        found = os.fstat(self.descriptor)
        if (found.st_size, found.st_mtime_ns) != (size, changed):
            raise EOFError(f"{path} has changed since the run began")

    def read(self, at: int, size: int) -> bytes:
        """So many bytes from there on, in one read."""
        if hasattr(os, "pread"):
            data = os.pread(self.descriptor, size, at)
        else:
            # Windows has one position for all who read.
            with Path(self.path).open("rb") as file:
                file.seek(at)
                data = file.read(size)
        if len(data) != size:
            raise EOFError("its file has become shorter")
        return data

    # Bound here, because at the end of the process modules are gone first.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)


# Of the process, and without a lock that could be held while another thread forks. One that is
# dropped here stays open for the thread that is reading from it.
_opened = lru_cache(OPEN_FILES)(_Opened)


def _decoded(data: bytes, place: Path, channels: int) -> Pixels:
    try:
        if not data:
            raise UnusableError("is empty")
        return fit_picture(decode(io.BytesIO(data), str(place)), channels).pixels
    # Decoders meet strangers' bytes and raise whatever they like.
    except Exception as error:
        raise ImageError(place, reason_of(error)) from error


def _files(root: Path, split: Part) -> tuple[list[Path], bool]:
    """The tar files with the pairs of a split, and whether there are some to validate on."""
    if not root.exists():
        # Other programs take these for many files.
        if re.match(r"\w+:/|pipe:", str(root)) or re.search(r"[{*?]", root.name):
            advice = "give the folder, on a disk, that holds the tar files, or one tar file"
        else:
            advice = "paths start at the working directory"
        raise DataError(f"data.root: there is no file or folder {str(root)!r}; {advice}")
    by_split: dict[str, list[Path]] = {}
    for file in sorted(_tars(root)) if root.is_dir() else [root]:
        by_split.setdefault(split_of(file.relative_to(root)), []).append(file)
    if not by_split:
        raise DataError(f"data.root: no .tar files below {str(root)!r}")
    if "" in by_split and len(by_split) > 1:
        raise DataError(
            f"data.root: {by_split[''][0]} belongs to no split, while other tar files name theirs; "
            f"rename it or move it away"
        )
    train = by_split.get("train") or by_split.get("")
    held_out = by_split.get("val") or by_split.get("test")
    if train is None and (held_out is None or split != "scored"):
        raise DataError(
            f"data.root: {str(root)!r} has tar files to validate on, but none to train on"
        )
    found = (held_out if split != "train" else None) or train
    assert found is not None, "one of the two is there"
    return found, held_out is not None


def _tars(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            if re.search(r"\.(tgz|tbz2?|txz|tar\.\w+)$", name.lower()):
                raise DataError(
                    f"data.root: {Path(parent, name)} is compressed, so no image can be read "
                    f"without all before it; unpack it to a plain .tar file"
                )
            if name.lower().endswith(".tar"):
                yield Path(parent, name)


def split_of(place: Path) -> str:
    """Which split a tar file belongs to by its path below the root; empty if that names none."""
    # From the outside in: what lies in `train/` is to train on, whatever it is called.
    for part in place.parts:
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word]
    return ""


def _state(file: Path) -> tuple[int, int]:
    """What shows that a file has changed: size and time."""
    try:
        found = file.stat()
    except OSError as error:
        raise DataError(f"data.root: {file} cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns
