"""Of what kind images are: grey, colour, palette, alpha, how deep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from img2img.data.checks.colours import GREY, colourfulness
from img2img.data.checks.problem import Problem
from img2img.data.checks.seen import Seen
from img2img.data.source import PairSource
from img2img.picture import Pixels, to_display

_NAMES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "RGB": "RGB",
    "RGBA": "RGB with alpha",
    "CMYK": "CMYK",
}
_CONVERTED = ("alpha", "CMYK", "palette")
_DEPTHS = {"uint8": "", "uint16": "16-bit ", "float32": "floating-point "}
# Examples of one kind.
SHOWN = 3


def files_of(source: PairSource, index: int) -> tuple[Path, ...]:
    """The files of a pair, one or two, where a source has `paths`."""
    paths = getattr(source, "paths", None)
    return tuple(paths(index)) if paths is not None else ()


def modes_of(pair: tuple[Pixels, Pixels], files: tuple[Path, ...]) -> tuple[str, str]:
    """What kind of image each of a pair is, by its file's header and its pixels."""
    headers = [_header(file) for file in files] or [""]
    first, second = (
        _mode(image, header) for image, header in zip(pair, (headers * 2)[:2], strict=True)
    )
    return first, second


def find_modes(seen: Seen) -> Iterator[Problem]:
    """A note for the source's and the target's side if images differ in kind or lose something."""
    usable = seen.table["usable"]
    for at, side in enumerate(("source", "target")):
        modes = seen.table["mode"][:, at][usable]
        codes, counts = np.unique(modes, return_counts=True)
        ranked = sorted(zip(counts.tolist(), codes.tolist(), strict=True), reverse=True)
        words = [f"{count} {seen.modes[code]}" for count, code in ranked]
        lossy = seen.channels[at] not in (2, 4) and any(
            word in seen.modes[code] for _, code in ranked for word in _CONVERTED
        )
        if len(ranked) < 2 and not lossy:
            continue
        # What is rarest is likely the oddest.
        rare = [ranked[-1][1]] if ranked else []
        odd = np.flatnonzero(usable & np.isin(seen.table["mode"][:, at], rare))
        examples = ", ".join(seen.name(int(index)) for index in odd[:SHOWN])
        converted = f"; all become {_channels(seen.channels[at])}"
        yield seen.about_all(
            "modes",
            f"{side}s are {', '.join(words)} (such as {examples}){converted}",
            int(odd[0]),
        )


def _header(file: Path) -> str:
    try:
        with PillowImage.open(file) as opened:
            alpha = opened.mode == "P" and "transparency" in opened.info
            return _NAMES.get(opened.mode, "") + " with alpha" * alpha
    # What Pillow does not know was read by something else.
    except Exception:
        return ""


def _mode(image: Pixels, header: str) -> str:
    depth = _DEPTHS.get(image.dtype.name, f"{image.dtype.name} ")
    if header not in ("", "RGB"):
        return depth + header
    count = image.shape[2]
    if count == 1 or (count == 3 and _is_grey(image)):
        return f"{depth}grey"
    return depth + ("RGB" if count == 3 else f"{count}-channel")


def _is_grey(image: Pixels) -> bool:
    # A few thousand pixels tell.
    step = max(1, image.shape[0] // 64), max(1, image.shape[1] // 64)
    return colourfulness(to_display(image[:: step[0], :: step[1]])) < GREY


def _channels(count: int) -> str:
    return {1: "grey", 3: "RGB"}.get(count, f"{count} channels")
