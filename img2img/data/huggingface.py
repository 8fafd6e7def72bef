"""Pairs in a Hugging Face `datasets` form: two columns of images, on disk or on the hub."""

from __future__ import annotations

import difflib
import importlib
import io
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from img2img.data.images import Split, hold_out
from img2img.data.reading import decode
from img2img.errors import DataError, ImageError
from img2img.hub import first_sentence, quiet_hub
from img2img.picture import Pixels, UnusableError, fit_picture

# What a part of a file's path says about its split. Whole words, as in train-00000-of-00004.
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
_HELD_OUT = ("val", "validation", "test")
# Loads the rows of a split.
Load = Callable[[], Any]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HuggingFace:
    """Two image columns of a Hugging Face data set, local or on the hub.

    `root` is a parquet file, a folder of them (`train-*.parquet`, `validation/*.parquet`, ...), a
    folder that `save_to_disk` wrote, or, where no such path exists, a name on the hub such as
    `owner/name`. Without a validation split every tenth pair is held out. Rows are decoded when
    they are asked for; the library's cache keeps an unpacked copy of parquet files. Code that a
    data set brings is never run.

    Needs `pip install "img2img[datasets]"`.

    Args:
        first: the column of the first images; empty where there are only two columns of images.
        second: the column of the second images; likewise.
        train_split: the split to train on; empty for `train`, or the only one.
        val_split: the split to validate on; empty for `val`, `validation` or `test`, whichever
            comes first.
        config: which of the data set's configurations; for a local folder, a folder in it.
        revision: a branch, tag or commit on the hub; a commit makes a run repeatable.

    Raises:
        DataError: the data set, a split or a column is missing, or the library is.
    """

    def __init__(
        self,
        root: Path,
        split: Split,
        channels: tuple[int, int] = (3, 3),
        *,
        first: str = "",
        second: str = "",
        train_split: str = "",
        val_split: str = "",
        config: str = "",
        revision: str = "",
    ) -> None:
        library = _library()
        self.root = root.as_posix()
        self.channels = channels
        # Where rows may name files instead of holding them; what the hub gave lies in its cache.
        self.folder = Path(library.config.HF_CACHE_HOME).resolve()
        if root.exists():
            self.folder = (root if root.is_dir() else root.parent).resolve()
        splits = _splits(library, root, config, revision)
        train, val = _choose(list(splits), self.root, train_split, val_split)
        self.split = train if split == "train" or val is None else val
        try:
            rows = splits[self.split]()
            if not len(rows):
                raise DataError(f"data.root: {self.root} has no rows in {self.split!r}")
            self.columns = _columns(rows.features, first, second)
            rows = rows.select_columns(list(self.columns))
            for column in self.columns:
                # Bytes as they were stored: they are decoded here, like those of any file.
                if isinstance(rows.features[column], library.Image):
                    rows = rows.cast_column(column, library.Image(decode=False))
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(self.root, error) from error
        self.rows = rows
        indices = range(len(rows))
        self.indices = indices if val is not None else hold_out(indices, split)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return f"{self.root}[{self.split}][{self.indices[index]}]"

    def pair(self, index: int) -> tuple[Pixels, Pixels]:
        place = Path(self.name(index))
        row = self.rows[self.indices[index]]
        first, second = (
            _decode(row[column], place, column, self.folder, channels)
            for column, channels in zip(self.columns, self.channels, strict=True)
        )
        (height, width), (height2, width2) = first.shape[:2], second.shape[:2]
        if (height, width) != (height2, width2):
            raise ImageError(
                place,
                f"{width}x{height} pixels in column {self.columns[0]!r}, but {width2}x{height2} in "
                f"{self.columns[1]!r}",
                "size",
            )
        return first, second


def _library() -> Any:
    """The `datasets` package.

    Raises:
        DataError: it is not installed.
    """
    try:
        library: Any = importlib.import_module("datasets")
    except ImportError:
        library = None
    # A folder of that name in the working directory, where many keep their data, counts as a
    # package to Python.
    if not hasattr(library, "load_dataset"):
        raise DataError(
            "data.source: 'huggingface' needs the datasets library: "
            'pip install "img2img[datasets]"'
        )
    if not sys.stderr.isatty():
        library.disable_progress_bars()
    return library


def _splits(library: Any, root: Path, config: str, revision: str) -> dict[str, Load]:
    """The splits of a data set, by their names, in order."""
    name = root.as_posix()
    if root.exists():
        if revision:
            raise DataError("data.revision: only data sets on the hub have revisions")
        return _local_splits(library, root, config)
    if not _HUB_NAME.fullmatch(name):
        raise DataError(
            f"data.root: there is no file or folder {name!r}, and a name on the hub looks like "
            f"owner/name; paths start at the working directory"
        )
    # A mistyped path would be looked for on the hub, for half a minute where there is no network.
    if root.parent.is_dir() or root.suffix == ".parquet":
        near = difflib.get_close_matches(root.name, _names(root.parent), n=3)
        meant = f"; did you mean {', '.join(repr(str(root.parent / n)) for n in near)}?"
        raise DataError(
            f"data.root: there is no file or folder {name!r}, and on the hub it is not looked for, "
            + (
                f"because there is a folder {str(root.parent)!r} here"
                if root.parent.is_dir()
                else "because it ends in .parquet"
            )
            + (meant if near else "")
        )
    try:
        with quiet_hub():
            loaded = library.load_dataset(name, name=config or None, revision=revision or None)
    except Exception as error:
        raise DataError(
            f"data.root: there is no file or folder {name!r} here, and as a data set on the hub it "
            f"cannot be loaded ({first_sentence(error)})"
        ) from error
    return {str(split): partial(_as_it_is, rows) for split, rows in loaded.items()}


def _local_splits(library: Any, root: Path, config: str) -> dict[str, Load]:
    if config:
        root = root / config
        if not root.is_dir():
            raise DataError(f"data.config: there is no folder {str(root)!r}")
    if (root / "dataset_dict.json").is_file() or (root / "state.json").is_file():
        try:
            loaded = library.load_from_disk(str(root))
        except Exception as error:
            raise _unreadable(str(root), error) from error
        tables = loaded if isinstance(loaded, dict) else {"train": loaded}
        return {str(split): partial(_as_it_is, rows) for split, rows in tables.items()}
    by_split: dict[str, list[Path]] = {}
    if root.is_file():
        by_split["train"] = [root]
    for file in sorted(root.rglob("*.parquet")):
        place = file.relative_to(root)
        if file.is_file() and not any(part.startswith(".") for part in place.parts):
            by_split.setdefault(_split_of(place), []).append(file)
    if not by_split:
        raise DataError(
            f"data.root: no parquet files below {str(root)!r}, and save_to_disk did not write it"
        )
    if "" in by_split and len(by_split) > 1:
        others = ", ".join(sorted(set(by_split) - {""}))
        raise DataError(
            f"data.root: {by_split[''][0]} belongs to no split, while other files name theirs "
            f"({others}); rename it or move it away"
        )
    return {name or "train": partial(_parquet, library, by_split[name]) for name in by_split}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _as_it_is(rows: Any) -> Any:
    return rows


def _parquet(library: Any, files: list[Path]) -> Any:
    # Not load_dataset: that tells the hub of each use, also where all is local.
    return library.Dataset.from_parquet([str(file) for file in files])


def _split_of(path: Path) -> str:
    # The file's own name first, then the folders from the inside out.
    for part in (path.stem, *reversed(path.parts[:-1])):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in _WORDS:
                return _WORDS[word]
    return ""


def _choose(
    names: list[str], root: str, train_split: str, val_split: str
) -> tuple[str, str | None]:
    """The split to train on, and the one to validate on if there is one."""
    listed = ", ".join(names)
    for key, wanted in (("train_split", train_split), ("val_split", val_split)):
        if wanted and wanted not in names:
            raise DataError(f"data.{key}: {root} has no split {wanted!r}; splits: {listed}")
    if not train_split and "train" not in names and len(names) != 1:
        raise DataError(
            f"data.root: {root} has no split 'train'; name one with data.train_split: {listed}"
        )
    train = train_split or ("train" if "train" in names else names[0])
    if val_split == train:
        raise DataError(f"data.val_split: {train!r} is what is trained on")
    held_out = (name for name in _HELD_OUT if name in names and name != train)
    return train, val_split or next(held_out, None)


def _columns(features: Any, first: str, second: str) -> tuple[str, str]:
    """The columns of the first and of the second images."""
    images = [name for name, feature in features.items() if _may_be_image(feature)]
    listed = ", ".join(f"{n} (images)" if n in images else n for n in features)
    for key, wanted in (("first", first), ("second", second)):
        if wanted and wanted not in features:
            raise DataError(f"data.{key}: there is no column {wanted!r}; columns: {listed}")
        if wanted and wanted not in images:
            raise DataError(f"data.{key}: column {wanted!r} holds no images; columns: {listed}")
    if first and first == second:
        raise DataError(f"data.second: {second!r} is the first column as well")
    left = [name for name in images if name not in (first, second)]
    if len(left) != 2 - bool(first) - bool(second) and not (first and second):
        raise DataError(
            f"data.first: name the two columns of images with data.first and data.second; "
            f"columns: {listed}"
        )
    return first or left.pop(0), second or left.pop(0)


def _may_be_image(feature: Any) -> bool:
    """Images as the library marks them, and as parquet files of other programs hold them."""
    if isinstance(feature, dict):
        return "bytes" in feature
    kind = type(feature).__name__
    return kind == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _decode(cell: Any, place: Path, column: str, folder: Path, channels: int) -> Pixels:
    """One image of a row, (H, W, channels): its bytes, or a file below the data's folder.

    A stranger's table may name any file of this machine, and gets none from elsewhere.
    """
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    path = cell.get("path") if isinstance(cell, dict) else None
    try:
        if data is None and path:
            # Joined to an absolute one, the folder vanishes.
            file = (folder / path).resolve()
            if not file.is_relative_to(folder):
                raise ImageError(
                    place, f"column {column!r} names {path}, which is not below {folder}"
                )
            data = file.read_bytes() if file.is_file() else None
        if not data:
            raise ImageError(place, f"column {column!r} is empty")
        name = f"{place}, column {column!r}"
        return fit_picture(decode(io.BytesIO(data), name), channels).pixels
    except ImageError:
        raise
    except UnusableError as error:
        raise ImageError(place, f"column {column!r}: {error}") from None
    except UnidentifiedImageError:
        raise ImageError(place, f"column {column!r} is not an image that can be read") from None
    # Decoders meet strangers' bytes and raise whatever they like.
    except Exception as error:
        said = first_sentence(error)
        raise ImageError(place, f"column {column!r} cannot be read ({said})") from error


def _unreadable(root: str, error: Exception) -> DataError:
    return DataError(
        f"data.root: {root} cannot be read as a Hugging Face data set ({first_sentence(error)})"
    )
