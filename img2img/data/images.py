"""Reading, writing and finding image files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps, UnidentifiedImageError

from img2img.errors import DataError, ImageError

Image = NDArray[np.uint8]
Split = Literal["train", "val"]
Item = TypeVar("Item")
Format = Literal["png", "jpg", "webp", "tiff"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
# Lossy formats: as good as they sensibly get. Others ignore it.
QUALITY = 95


def read_image(path: Path) -> Image:
    """One image file as (H, W, 3) uint8 sRGB, turned upright as its EXIF says.

    16-bit grey is scaled down, transparency is laid on white.

    Raises:
        ImageError: it is missing, truncated, or no image.
    """
    try:
        with PillowImage.open(path) as opened:
            opened.load()
            return to_rgb(opened)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(path, "there is no such file") from None
    except UnidentifiedImageError:
        raise ImageError(path, "not an image that can be read") from None
    # Decoders meet strangers' bytes and raise whatever they like: struct.error, SyntaxError, ...
    except Exception as error:
        raise ImageError(path, f"cannot be read ({' '.join(str(error).split())})") from error


def to_rgb(picture: PillowImage.Image) -> Image:
    """Any 8- or 16-bit Pillow image as (H, W, 3) uint8 sRGB, upright."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow would clip 16 bits at 255 instead of scaling them.
        deep = np.asarray(picture).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("grey levels outside 16 bits")
        picture = PillowImage.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating point images are not supported")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = PillowImage.new("RGBA", picture.size, "white")
        picture = PillowImage.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def write_image(path: Path, image: Image, palette: Image | None = None) -> None:
    """Write (H, W, 3) uint8 in the format of the path's suffix: whole, or not at all.

    Args:
        path: where to; its suffix says in which format.
        image: the pixels.
        palette: colours (N, 3); the file then holds their indices, which PNG and TIFF can.

    Raises:
        OSError: the folder cannot be written to.
    """
    options: dict[str, Any] = {}
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = QUALITY
    # The suffix tells Pillow the format; the leading dot hides it from whoever lists the folder.
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        picture = PillowImage.fromarray(image) if palette is None else to_indexed(image, palette)
        picture.save(temporary, **options)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_indexed(image: Image, palette: Image) -> PillowImage.Image:
    """(H, W, 3) in the colours of a palette (N, 3) as a Pillow image of indices into it, mode P.

    Raises:
        ValueError: it has another colour than those.
    """
    weights = np.array([1 << 16, 1 << 8, 1])
    codes, wanted = image @ weights, palette @ weights
    order = np.argsort(wanted, kind="stable")
    place = np.searchsorted(wanted[order], codes).clip(max=len(order) - 1)
    index = order[place]
    if (wanted[index] != codes).any():
        raise ValueError("the image has colours that the palette lacks")
    picture = PillowImage.fromarray(index.astype(np.uint8))
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


def resize_image(
    image: Image, size: tuple[int, int], how: Literal["smooth", "nearest"] = "smooth"
) -> Image:
    """(H, W, 3) uint8 to a (width, height); `nearest` where colours stand for classes."""
    shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
    # As in augmentation: cubic would skip pixels when shrinking, the mean over an area does not.
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    method = cv2.INTER_NEAREST_EXACT if how == "nearest" else smooth
    return cv2.resize(image, size, interpolation=method).astype(np.uint8, copy=False)


def find_images(folder: Path) -> list[Path]:
    """Image files below a folder by suffix, sorted; hidden files and folders are passed over."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                found.append(path)
    return sorted(found)


def split_images(root: Path, split: Split) -> list[Path]:
    """The images of one split: below `train/`, and below `val/`, else `test/`.

    Where there is neither `val/` nor `test/`, every tenth image is held out for validation; where
    there is no `train/` either, the images are those below `root` itself.

    Raises:
        DataError: the folder is missing, or holds no images.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root: there is no folder {str(root)!r}; paths start at the working directory"
        )
    held_out = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    train = root / "train" if (root / "train").is_dir() else root
    if held_out is not None and train is root:
        raise DataError(f"data.root: {str(root)!r} has {held_out.name}/ but no train/")
    folder = held_out if split == "val" and held_out is not None else train
    images = find_images(folder)
    if not images:
        raise DataError(
            f"data.root: no images below {str(folder)!r} (looked for {', '.join(sorted(SUFFIXES))})"
        )
    return images if held_out is not None else hold_out(images, split)


def hold_out(items: Sequence[Item], split: Split) -> list[Item]:
    """Every tenth item for validation, at least one where there are two; the others to train on."""
    if len(items) < 2:
        return list(items)
    kept = set(items[9::10] or items[-1:])
    return [item for item in items if (item in kept) == (split == "val")]


def image_size(path: Path) -> tuple[int, int]:
    """Width and height from the header alone, before any EXIF turn.

    Raises:
        ImageError: it is no image.
    """
    try:
        with PillowImage.open(path) as opened:
            return opened.size
    except Exception as error:
        raise ImageError(path, "not an image that can be read") from error


def formats() -> tuple[str, ...]:
    """Output formats, as `--format` takes them."""
    return get_args(Format)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
