"""Embedded colour profiles: colours into sRGB, at the depth they have."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from img2img.names import printable
from img2img.picture import Pixels, by_rows, fit_channels, to_depth, white_of

Space = Literal["grey", "rgb", "cmyk"]

# As profiles name them, as imagecodecs does, and how many channels they have.
_SIGNATURES: dict[bytes, Space] = {b"GRAY": "grey", b"RGB ": "rgb", b"CMYK": "cmyk"}
_LAYOUTS: dict[Space, str] = {"grey": "minisblack", "rgb": "rgb", "cmyk": "cmyk"}
_COUNTS: dict[Space, int] = {"grey": 1, "rgb": 3, "cmyk": 4}


def into_srgb(
    pixels: Pixels, space: Space, profile: bytes | None, name: str
) -> tuple[Pixels, bool]:
    """Colours of a space, (H, W, C), as sRGB: grey stays (H, W, 1), all others become (H, W, 3).

    By the embedded profile if there is one: relative colorimetric with black point compensation,
    as Photoshop converts by default; colours that sRGB lacks are clipped. A profile of sRGB itself
    changes nothing. Grey may come with a profile for RGB, as many programs write it. A profile that
    is broken or for other colours is told in a RuntimeWarning, and passed over.

    Args:
        pixels: uint8, uint16, or float32 in [0, 1]; CMYK as shares of ink.
        space: what the channels are.
        profile: ICC; None if there is none, empty if there was one that cannot be read.
        name: what to call the image in warnings.

    Returns:
        The colours, and whether a profile says what they are.
    """
    if profile is not None:
        try:
            return _by_profile(pixels, space, profile), True
        except Exception as error:
            # lcms has an error type of its own that says little: the name is what helps.
            said = str(error) if type(error) is ValueError else "is broken"
            # Python keeps every text that it warned of where `warn` is called, one for each file.
            warnings.warn_explicit(
                f"{printable(name)}: its colour profile {said}, and was not used",
                RuntimeWarning,
                __file__,
                0,
                registry={},
            )
    return (by_rows(_without_profile, pixels) if space == "cmyk" else pixels), False


def profile_for(colours: int) -> bytes | None:
    """A profile of sRGB (IEC 61966-2-1) for 1 or 3 colours: for grey, one of the same curve."""
    return {1: _grey_profile, 3: _srgb_profile}[colours]() if colours in (1, 3) else None


def _by_profile(pixels: Pixels, space: Space, profile: bytes) -> Pixels:
    if len(profile) < 128 or profile[36:40] != b"acsp":
        raise ValueError("is broken")
    described = _SIGNATURES.get(profile[16:20])
    if described is None or (described != space and (described, space) != ("rgb", "grey")):
        kind = printable(profile[16:20].decode("latin-1").strip())
        raise ValueError(f"is for {kind} and the image is {space.upper()}")
    if described != "cmyk" and _is_srgb(profile, described):
        return pixels
    return _transform(pixels, profile, described)


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes, space: Space) -> bool:
    """Whether a profile moves no colour of a grid by more than a level of 256."""
    steps = np.arange(0, 256, 15 if space == "rgb" else 1, dtype=np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * _COUNTS[space], indexing="ij"), axis=-1)
    grid = grid.reshape(len(steps), -1, _COUNTS[space])
    moved = _transform(grid, profile, space).astype(np.int16) - grid
    return bool(np.abs(moved).max() <= 1)


def _transform(pixels: Pixels, profile: bytes, space: Space) -> NDArray[Any]:
    import imagecodecs

    grey = pixels.shape[2] == 1
    flags = int(imagecodecs.CMS.FLAGS.BLACKPOINTCOMPENSATION)
    if space == "cmyk" and pixels.dtype == np.float32:
        # lcms would take floats for percentages of ink.
        pixels = to_depth(pixels, np.uint16)
    if pixels.dtype != np.uint8 or grey:
        # Or lcms looks 16-bit colours up in a coarse table, which is off by up to 12 of 256 levels,
        # and dark grey by up to 2. Colours of 8 bits it gets right, in a tenth of the time.
        flags |= int(imagecodecs.CMS.FLAGS.NOOPTIMIZE)
    source = pixels[..., 0] if space == "grey" else fit_channels(pixels, _COUNTS[space])
    moved = imagecodecs.cms_transform(
        np.ascontiguousarray(source),
        profile,
        _srgb_profile(),
        colorspace=_LAYOUTS[space],
        outcolorspace="rgb",
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=flags,
    )
    if moved.dtype == np.float32:
        np.clip(moved, 0, 1, out=moved)
    return np.ascontiguousarray(moved[..., 1:2]) if grey else moved


def _without_profile(pixels: Pixels) -> Pixels:
    """CMYK (H, W, 4) to RGB, as Pillow has it to the last bit: each ink takes a share of light."""
    white = white_of(pixels.dtype)
    black = white - pixels[..., 3:].astype(np.float64)
    taken = pixels[..., :3] * black / white
    if pixels.dtype != np.float32:
        taken = np.rint(taken)
    return (black - taken).astype(pixels.dtype)


@lru_cache
def _srgb_profile() -> bytes:
    import imagecodecs

    return bytes(imagecodecs.cms_profile("srgb"))


@lru_cache
def _grey_profile() -> bytes:
    import imagecodecs

    level = np.linspace(0, 1, 1024)
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return bytes(imagecodecs.cms_profile("gray", transferfunction=linear.astype(np.float32)))
