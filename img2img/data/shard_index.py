"""Where the images of pairs lie in tar files; found once and kept between runs."""

from __future__ import annotations

import time
import warnings
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img2img.data.images import SUFFIXES
from img2img.data.kept_files import Arrays, as_arrays, is_settled, keep, load, texts_in
from img2img.data.sequences import Texts
from img2img.data.tars import Ending, Member, members
from img2img.errors import DataError
from img2img.names import printable

# From so many pairs on, where they lie is kept: on a disk, each of them is a movement of its arm.
KEPT_FROM = 1_000
# Tar files that a warning names; there may be thousands.
_NAMED = 3
_ENDS = {
    Ending.MISSING: "it has no end mark",
    Ending.ZEROS: "it ends in more than 1 MiB of zeros",
    Ending.MORE: "it goes on behind its end mark",
}


def find_pairs(
    files: Sequence[Path], states: Sequence[tuple[int, int]], first: str, second: str
) -> Arrays:
    """Where the images of all pairs in tar files lie, kept between runs where they are many.

    Gives, as arrays, `rows` of which file, offset and size of the first image, offset and size of
    the second (0 where there is none); the `keys` of the pairs, as texts; and, by file, the
    `counts` of pairs and the `endings`. Warns of files that seem to have been copied in part.

    Args:
        files: the tar files.
        states: size and time of change of each; with another one, it is looked through again.
        first: what first images are called; see `Shards`.
        second: the same of second images.

    Raises:
        DataError: a file is damaged, or lacks an image of a pair.
    """
    # Thousands of files lie in a few folders, and to resolve one takes longer than all else here.
    folders = {folder: folder.resolve() for folder in {file.parent for file in files}}
    key: dict[str, Any] = {
        "purpose": "shards",
        "files": [str(folders[file.parent] / file.name) for file in files],
        "names": [first, second],
    }
    stamps = np.array(states, np.int64).reshape(-1)
    if (kept := _kept(key, stamps)) is not None:
        _warn(files, kept)
        return kept
    began = time.time_ns()
    rows, counts = array("q"), []
    keys: list[str] = []
    endings: list[Ending] = []
    for number, file in enumerate(files):
        before = len(keys)
        for name, one, other in _pairs(file, first, second, endings):
            keys.append(name)
            rows.extend((number, *one, *other))
        counts.append(len(keys) - before)
    arrays = {
        "stamps": stamps,
        "rows": np.array(rows, np.int64),
        "counts": np.array(counts, np.int64),
        "endings": np.array(endings, np.int64),
        **as_arrays("keys", Texts.of(keys)),
    }
    _warn(files, arrays)
    if len(keys) >= KEPT_FROM and all(is_settled(changed, began) for _, changed in states):
        keep(key, arrays)
        # From now on as it will be the next time: on disk instead of in memory.
        return _kept(key, stamps) or arrays
    return arrays


def image_endings(file: Path, at_most: int = 10_000) -> dict[str, str]:
    """What `first` and `second` may be for a tar file, and how names with it end, by example.

    By its first members; `{"source": "source.jpg"}` for `000123.source.jpg`. Where a pair is
    `000123.jpg` and `000123.png`, `jpg` and `png` are told apart, else both are "".

    Raises:
        DataError: the file is damaged.
    """
    by_key: dict[str, set[str]] = {}
    endings: dict[str, None] = {}
    for member in islice(members(file), at_most):
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.lower().partition(".")
        before, dot, suffix = ending.rpartition(".")
        if stem and f".{suffix}" in SUFFIXES:
            endings[ending] = None
            if not dot:
                by_key.setdefault(f"{folder}/{stem}", set()).add(suffix)
    is_apart = any(len(suffixes) > 1 for suffixes in by_key.values())
    found: dict[str, str] = {}
    for ending in endings:
        before = ending.rpartition(".")[0]
        found.setdefault(ending if is_apart and not before else before, ending)
    return found


def called_in(file: Path) -> str:
    """What the images of a tar file are called, for a message."""
    called = [f"NAME.{ending}" for ending in image_endings(file).values()]
    if not called:
        return "it holds no images"
    more = f" and {len(called) - 5} more" if len(called) > 5 else ""
    return f"images there are called {', '.join(called[:5])}{more}"


def _kept(key: dict[str, Any], stamps: NDArray[np.int64]) -> Arrays | None:
    """What was kept, unless a tar file has changed since."""
    arrays = load(key)
    try:
        if arrays is None or not np.array_equal(arrays["stamps"], stamps):
            return None
        pairs = len(texts_in(arrays, "keys"))
        is_whole = len(arrays["rows"]) == 5 * pairs and all(
            len(arrays[name]) == len(stamps) // 2 for name in ("counts", "endings")
        )
    # It is damaged.
    except (ValueError, KeyError):
        return None
    return arrays if is_whole else None


def _warn(files: Sequence[Path], arrays: Arrays) -> None:
    """Say which files seem to lack pairs, where nothing else shows it."""
    counts, endings = arrays["counts"], arrays["endings"]
    empty = counts == 0
    for number in np.flatnonzero(endings == Ending.MISSING).tolist():
        pairs = int(counts[number])
        after = f" after the {f'{pairs:,} pairs' if pairs > 1 else 'only pair'} in it" * bool(pairs)
        _say(
            f"data.root: {printable(files[number])} has no end mark, so it may have been cut off"
            f"{after}; copy it again, or append 1,024 bytes of zeros to it if it is whole"
        )

    if empty.any() and not empty.all():
        _say(
            f"data.root: no pairs in {_named(files, empty)}, though other tar files have some; if "
            f"it was copied in part, copy it again, and if its images are called otherwise (see "
            f"data.first and data.second), pack it like the others or move it away"
        )
    if (zeros := (endings == Ending.ZEROS) & ~empty).any():
        _say(
            f"data.root: more than 1 MiB of zeros at the end of {_named(files, zeros)}, as a copy "
            f"that was interrupted leaves behind, so pairs may be lacking; copy it again"
        )
    if (more := endings == Ending.MORE).any():
        _say(
            f"data.root: more behind the end mark of {_named(files, more)}, where this program "
            f"stops reading, as GNU tar and WebDataset do; if `cat` put tar files together, give "
            f"the single ones, or unpack it with `tar --ignore-zeros` and pack it again; else copy "
            f"it again"
        )


def _named(files: Sequence[Path], chosen: NDArray[np.bool_]) -> str:
    """The first of the chosen files, and how many more there are."""
    numbers = np.flatnonzero(chosen).tolist()
    named = ", ".join(printable(files[number]) for number in numbers[:_NAMED])
    more = len(numbers) - _NAMED
    return f"{named} and {more:,} more" if more > 0 else named


def _say(message: str) -> None:
    # One place, so that Python says it once where both splits are of one file.
    warnings.warn(message, RuntimeWarning, stacklevel=1)


def _pairs(
    file: Path, first: str, second: str, endings: list[Ending]
) -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Key, and (offset, size) of both images, of each pair in a tar file, whose ending is added."""
    found: dict[str, list[Member | None]] = {}
    sides = (first, second) if second else (first,)
    for member in members(file, endings.append):
        folder, slash, base = member.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        if not stem or not dot:
            continue
        for side, wanted in enumerate(sides):
            if _is_called(ending.lower(), wanted.lower()):
                key = folder + slash + stem
                both = found.setdefault(key, [None] * len(sides))
                if (other := both[side]) is not None:
                    raise DataError(
                        f"data.root: {file} has two images for one place in a pair, {other.name!r} "
                        f"and {member.name!r}"
                    )
                if member.odd:
                    raise DataError(
                        f"data.root: {file}: its member {member.name!r} is {member.odd}"
                    )
                both[side] = member
    for key, both in found.items():
        if None in both:
            lacking = sides[both.index(None)]
            reasons = []
            if endings[-1] != Ending.WHOLE:
                reasons.append(
                    f"{_ENDS[endings[-1]]}, so it may have been copied in part: get it again"
                )
            # Where one pair is whole, the names are right.
            if not reasons or all(None in other for other in found.values()):
                reasons.append(f"{called_in(file)}: see data.first and data.second")
            raise DataError(
                f"data.root: {file} has no {key}.{lacking} to go with the other image of the pair "
                f"{key!r}; {'; else '.join(reasons)}"
            )
        places = [(member.offset, member.size) for member in both if member is not None]
        yield key, places[0], places[1] if len(places) > 1 else (0, 0)


def _is_called(ending: str, wanted: str) -> bool:
    """Whether what follows the first dot of a name is what is wanted, but for images' suffix."""
    if ending == wanted:
        return True
    before, dot, suffix = ending.rpartition(".")
    return before == wanted and f".{suffix}" in SUFFIXES and bool(dot) == bool(wanted)
