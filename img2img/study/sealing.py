"""Which image of a trial is the generated one, in a form that nobody reads by accident.

It is obscured and not encrypted: whoever reads this module can undo it. It keeps the answer out of
sight of somebody who looks at the page's source or at a file of answers, no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def seal(positions: Sequence[int], study: str, part: str) -> str:
    """Positions, 0 or 1 each, as hexadecimal digits.

    Args:
        positions: of the generated image in each trial.
        study: the study's id, which the digits depend on.
        part: `practice` or `trials`, so that the two look unlike.
    """
    stream = _stream(f"{study} {part}")
    # Only the lowest bit of each byte is the position; the rest is noise.
    return bytes((next(stream) & 254 | position) ^ next(stream) for position in positions).hex()


def unseal(sealed: str, study: str, part: str) -> list[int]:
    """The positions that `seal` was given.

    Raises:
        ValueError: these are no hexadecimal digits.
    """
    stream = _stream(f"{study} {part}")
    positions = []
    for byte in bytes.fromhex(sealed):
        next(stream)
        positions.append((byte ^ next(stream)) & 1)
    return positions


def _stream(text: str) -> Iterator[int]:
    """Bytes that follow from a text: FNV-1a, then mulberry32; `page.html` has the same."""
    state = 2166136261
    for character in text:
        state = _times(state ^ ord(character), 16777619)
    while True:
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        mixed = _times(state ^ (state >> 15), state | 1)
        mixed ^= (mixed + _times(mixed ^ (mixed >> 7), mixed | 61)) & 0xFFFFFFFF
        yield (mixed ^ (mixed >> 14)) & 255


def _times(a: int, b: int) -> int:
    return a * b & 0xFFFFFFFF
