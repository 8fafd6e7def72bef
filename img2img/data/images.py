"""Finding image files, splitting them for training and validation, and resizing what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img.data.listing import list_files
from img2img.data.sequences import Part, Split, SplitOf
from img2img.errors import DataError
from img2img.picture import Pixels

__all__ = [
    "SUFFIXES",
    "Image",
    "Part",
    "Split",
    "find_images",
    "hold_out",
    "resize_image",
    "split_images",
]

Image = NDArray[np.uint8]
Item = TypeVar("Item")

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "jpg", "jpeg", "jfif", "webp", "avif", "gif", "bmp"),
        *("tif", "tiff", "ppm", "pgm", "npy"),
    )
)


def resize_image(
    image: Pixels, size: tuple[int, int], how: Literal["smooth", "nearest"] = "smooth"
) -> Pixels:
    """(H, W, C) to a (width, height); `nearest` where colours stand for classes."""
    shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
    # As in augmentation: cubic would skip pixels when shrinking, the mean over an area does not.
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    method = cv2.INTER_NEAREST_EXACT if how == "nearest" else smooth
    # More than four channels are a matter of luck: OpenCV takes small images for volumes then.
    parts = (image[..., at : at + 4] for at in range(0, image.shape[2], 4))
    done = [cv2.resize(np.ascontiguousarray(part), size, interpolation=method) for part in parts]
    resized: Pixels = np.dstack(done) if len(done) > 1 else done[0].reshape(size[1], size[0], -1)
    # Cubic goes beyond what it is given where there are edges.
    return np.clip(resized, 0, 1) if image.dtype.kind == "f" else resized


def find_images(folder: Path) -> Sequence[Path]:
    """Image files below a folder by suffix, sorted; hidden files and folders are passed over.

    Where there are many, they are found once; see `list_files`.
    """
    return list_files([folder], SUFFIXES, list, "images")[0]


def split_images(root: Path, split: Part) -> Sequence[Path]:
    """The images of one split: below `train/`, and below `val/`, else `test/`.

    Where there is neither `val/` nor `test/`, every tenth image is held out for validation; where
    there is no `train/` either, the images are those below `root` itself. Those that are `scored`
    are all below `val/`, else `test/`, else `train/`, else `root`.

    Raises:
        DataError: the folder is missing, or holds no images.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root: there is no folder {str(root)!r}; paths start at the working directory"
        )
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    train = root / "train" if (root / "train").is_dir() else root
    if held_out is not None and train is root and split != "scored":
        raise DataError(f"data.root: {str(root)!r} has {held_out.name}/ but no train/")
    folder = held_out if split != "train" and held_out is not None else train
    images = find_images(folder)
    if not images:
        raise DataError(
            f"data.root: no images below {str(folder)!r} (looked for {', '.join(sorted(SUFFIXES))})"
        )
    return images if held_out is not None else hold_out(images, split)


def hold_out(items: Sequence[Item], split: Part) -> Sequence[Item]:
    """Every tenth item for validation, at least one where there are two; the others to train on.

    All of them are scored.
    """
    return items if split == "scored" or len(items) < 2 else SplitOf(items, split)
