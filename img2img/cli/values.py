"""Option values checked in our words, and texts that every terminal can show."""

from __future__ import annotations

from collections.abc import Sequence

from img2img.errors import RequestError
from img2img.registry import suggest

# What stands for signs that an encoding lacks.
PLAIN = {"\u2191": "^", "\u2193": "v", "\u00b1": "+/-"}


def one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a RequestError unless a value is allowed; it names the nearest."""
    if value not in allowed:
        raise RequestError(f"{option} cannot be {value!r}{suggest(value, list(allowed))}")


def plain(text: str, encoding: str | None) -> str:
    """A text as a stream of that encoding can show it: arrows and the like in ASCII if need be.

    Args:
        text: what is to be printed.
        encoding: such as `sys.stdout.encoding`, or a console's; None is taken for ASCII.
    """
    encoding = encoding or "ascii"
    for sign, instead in PLAIN.items():
        try:
            sign.encode(encoding)
        except UnicodeEncodeError:
            text = text.replace(sign, instead)
    return text.encode(encoding, "replace").decode(encoding)
