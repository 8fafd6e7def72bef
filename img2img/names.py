"""Texts of strangers, such as file names, as messages show them: whatever bytes are in one."""

from __future__ import annotations

from pathlib import Path


def printable(text: str | Path) -> str:
    r"""A text in one line that leaves a terminal as it is.

    Line breaks, terminal escapes, marks that turn the direction of writing, and bytes that are no
    UTF-8 become escapes such as `\n`, `\x1b`, `\u202e` and `\xff`.
    """
    return "".join(c if c.isprintable() or _is_space(c) else _escape(c) for c in str(text))


def _is_space(character: str) -> bool:
    # Python calls wide and unbreakable spaces unprintable; names in some languages have them.
    return character.isspace() and ord(character) > 0x7F and character not in "\x85\u2028\u2029"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        # How Python carries a byte of a name that is no UTF-8 (PEP 383).
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
