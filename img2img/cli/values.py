"""Checks of option values that Typer does not do in our words."""

from __future__ import annotations

from collections.abc import Sequence

from img2img.errors import RequestError
from img2img.registry import suggest


def one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a RequestError unless a value is allowed; it names the nearest."""
    if value not in allowed:
        raise RequestError(f"{option} cannot be {value!r}{suggest(value, list(allowed))}")
