"""How much an image file may claim before anything of it is decoded."""

from __future__ import annotations

import warnings

from PIL import Image as PillowImage

from img2img.picture import UnusableError

# As many as OpenCV 5 can mirror.
MOST_BANDS = 128
# For each pixel of the limit, so that one number bounds both: RGBA of 32-bit floats has as many.
BYTES_PER_PIXEL = 16
# What of a file, in bytes, may be beyond its pixels: profiles, EXIF and texts.
BESIDE = 64 << 20

# Pillow warns from half of the limit on, which tells a user nothing to do.
warnings.filterwarnings("ignore", category=PillowImage.DecompressionBombWarning)


def pixel_limit() -> int | None:
    """The most pixels that an image may have; None where there is no limit.

    It is Pillow's own: twice `PIL.Image.MAX_IMAGE_PIXELS`, 178,956,970 unless somebody sets it.
    """
    most = PillowImage.MAX_IMAGE_PIXELS
    return None if most is None else int(2 * most)


def set_pixel_limit(pixels: int) -> None:
    """Let images have so many pixels, in the whole process; an odd number is rounded up.

    Raises:
        ValueError: it is below 1.
    """
    if pixels < 1:
        raise ValueError(f"a limit of {pixels} pixels would refuse every image")
    PillowImage.MAX_IMAGE_PIXELS = (pixels + 1) // 2


def check_claim(width: int, height: int, bands: int = 1, item_bytes: int = 1) -> None:
    """Refuse what a header claims if decoding it would take too much memory.

    Raises:
        UnusableError: too many pixels, bands or bytes, or none.
    """
    if width < 1 or height < 1 or bands < 1:
        raise UnusableError(f"has no pixels: {width} x {height}, {bands} channels")
    limit = pixel_limit()
    if limit is not None and width * height > limit:
        raise UnusableError(over_limit(f"{width} x {height} pixels"))
    if bands > MOST_BANDS:
        raise UnusableError(f"has {bands} channels, more than the {MOST_BANDS} that are supported")
    size = width * height * bands * item_bytes
    if limit is not None and size > limit * BYTES_PER_PIXEL:
        # In pixels, so that the number can be given to the option.
        needed = -(-size // BYTES_PER_PIXEL)
        raise UnusableError(
            over_limit(
                f"{width} x {height} pixels of {bands} channels, {item_bytes} bytes each, take the "
                f"memory of {needed:,} pixels, which"
            )
        )


def over_limit(what: str) -> str:
    """The sentence that says so of `what`, and what to do."""
    return (
        f"{what} are more than the limit of {pixel_limit():,}; raise it with --max-pixels if the "
        f"file is trusted"
    )
