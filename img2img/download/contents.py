"""Whether what was unpacked is the data set that it should be."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from img2img.download.archive import BadArchiveError
from img2img.download.catalog import DataSet

SUFFIXES = (".jpg", ".jpeg", ".png")


def find_root(folder: Path) -> Path:
    """The folder that holds `train/`: this one, or the only one in it.

    Raises:
        BadArchiveError: there is none.
    """
    for root in (folder, *sorted(folder.iterdir())):
        if (root / "train").is_dir():
            return root
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:3]) or "nothing"
    raise BadArchiveError(f"the archive holds no train/ ({found} instead)")


def check_contents(root: Path, data: DataSet) -> dict[str, int]:
    """Count the pairs of a data set, and look at a few.

    Returns:
        How many there are in each of the catalog's folders.

    Raises:
        BadArchiveError: there are too few, or they are no pairs side by side.
    """
    pairs = {}
    for split, expected in data.pairs.items():
        files = _images(root / split)
        pairs[split] = len(files)
        # The archive's own checks have seen its end: this tells another archive, not half of one.
        # Counts of training pairs are well known; some of the others are recalled.
        if len(files) < (expected if split == "train" else 1):
            raise BadArchiveError(
                f"the archive is not {data.name}: {len(files)} images in {split}/, where "
                f"{expected} should be"
            )
        for file in (files[0], files[len(files) // 2], files[-1]):
            _check_size(root, file, data)
    return pairs


def count_images(folder: Path) -> int:
    """Image files below a folder."""
    return len(_images(folder))


def _images(folder: Path) -> list[str]:
    return sorted(
        os.path.join(parent, name)  # noqa: PTH118 - a Path each for 140,000 files takes seconds
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


def _check_size(root: Path, file: str, data: DataSet) -> None:
    # Here, because the command line shows its help without it.
    from PIL import Image

    name = os.path.relpath(file, root)
    try:
        # A stranger's file: what Pillow warns of is refused like what it cannot read.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(file) as image:
                width, height = image.size
    except Exception as error:
        raise BadArchiveError(f"the archive is not {data.name}: {name} is no image") from error
    expected = data.file_size or (2 * height, height)
    if (width, height) != expected:
        raise BadArchiveError(
            f"the archive is not {data.name}: {name} has {width}x{height} pixels, where "
            f"{expected[0]}x{expected[1]} should be"
        )
