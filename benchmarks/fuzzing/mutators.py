"""Valid content into hostile content: bytes, texts, and trees of plain values."""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

# Where readers of numbers go wrong: ends of ranges, signs, and sizes that nobody has memory for.
NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 31, 32, 33, 63, 64, 100, 127, 128, 129, 200, 255, 256),
    *(257, 511, 1000, 1023, 4096, 10_000, 32767, 32768, 65535, 65536, 65537, 1 << 20, 1 << 24),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63),
    *((1 << 64) - 1, 1 << 64, 10**30, -1, -2, -128, -(1 << 31), -(1 << 63), -(1 << 63) - 1),
)
TEXTS = (
    *("", " ", "a", "A", "..", ".", "/", "\\", "../../x", "/etc/passwd", "/dev/zero", "~", "a/b"),
    *("CON", "nul", "a" * 255, "b" * 10_000, "-rf", "--help", "$(touch harmed)", "`id`", "%s%n{0}"),
    *("\0", "a\0b", "\n", "a\nb", "\r", "\t", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x7f"),
    *("\x9b2J", "\u202e", "\u2066x", "\u200b", "\u2028", "\ufeff", "\ud800", "\U0010ffff", "é"),
    *("e\u0301", "\ufffd", "<script>alert(1)</script>", "</script>", "<!--", "&lt;", "'\"", "'"),
    *("http://127.0.0.1:9/x", "file:///etc/passwd", "hf-hub:a/b", "local-dir:/etc", "data:,x"),
    *("nan", "inf", "-inf", "1e999", "true", "null", "None", "__import__('os').system('true')"),
    *("os.system", "torch.load", "__class__", "__init__", "{}", "[]", "0x10", "1_000", "1e5"),
    *(
        "2026-11-22",
        "12:30:00",
        "name",
        "unet",
        "timm_unet",
        "resnet",
        "paired",
        "labels",
        "facades",
    ),
    *(
        "onehot",
        "batch",
        "instance",
        "group",
        "sync",
        "none",
        "softmax",
        "tanh",
        "l1",
        "perceptual",
    ),
    *(
        "img2img>=0",
        "torch",
        "nothing-of-that-name",
        "pip @ http://127.0.0.1:9/x",
        "a[b]>=1;x=='y'",
    ),
)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, -1e308, 1e-9, 255.5, math.inf, -math.inf, math.nan)


def any_value(rng: random.Random, depth: int = 0) -> Any:
    """A plain value of any kind, hostile more often than not."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    if kind == 6:
        return rng.choice(FLOATS)
    if kind == 7 or depth > 2:
        return rng.choice((True, False))
    if kind == 8:
        return [any_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 40)))]
    return {rng.choice(TEXTS): any_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def nested(rng: random.Random) -> Any:
    """Lists or tables within each other, more deeply than any recursion likes."""
    value: Any = 0
    for _ in range(rng.choice((5, 31, 32, 33, 100))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Each (container, key) in a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, (dict, list)):
            items = each.items() if isinstance(each, dict) else enumerate(each)
            for key, inner in items:
                found.append((each, key))
                waiting.append(inner)
    return found


def mutate_tree(rng: random.Random, tree: Any, words: Sequence[str] = TEXTS) -> Any:
    """A copy of plain values with one to four changes; `words` are likely keys and texts."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        places = _places(tree)
        if not places:
            return any_value(rng)
        inside, key = rng.choice(places)
        change = rng.randrange(12)
        if change < 5:
            inside[key] = any_value(rng)
        elif change == 5:
            inside[key] = rng.choice(words)
        elif change == 6:
            del inside[key]
        elif change == 7:
            other, where = rng.choice(places)
            # A copy, or a tree might come to hold itself.
            inside[key] = copy.deepcopy(other[where])
        elif change == 8:
            value = inside[key]
            inside[key] = (
                [value] * rng.choice((0, 1, 2, 100)) if rng.random() < 0.7 else nested(rng)
            )
        elif change == 9 and isinstance(inside[key], (int, float)):
            number = inside[key]
            with_number = (number + 1, number - 1, -number, number * 2, number * 1e9, float(number))
            inside[key] = rng.choice(with_number)
        elif isinstance(inside, dict):
            name = rng.choice(words)
            if change == 10:
                inside[name] = any_value(rng)
            else:
                inside[name] = inside.pop(key)
        else:
            inside.insert(key, any_value(rng))
    return tree


def mutate_text(rng: random.Random, text: str, pieces: Sequence[str]) -> str:
    """A text with lines and characters added, doubled, moved and taken out."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        change = rng.randrange(6)
        if change == 0:
            lines.insert(at, lines[other])
        elif change == 1:
            lines[at], lines[other] = lines[other], lines[at]
        elif change == 2:
            del lines[at]
        elif change == 3:
            lines.insert(at, rng.choice(pieces))
        else:
            line = lines[at]
            place = rng.randrange(len(line) + 1)
            new = rng.choice((rng.choice(TEXTS), rng.choice(pieces), chr(rng.randrange(0x250))))
            lines[at] = line[:place] + new + line[place + rng.choice((0, 0, 1, 3)) :]
        text = "\n".join(lines)
    return text


def mutate_bytes(rng: random.Random, data: bytes, pieces: Sequence[bytes] = ()) -> bytes:
    """Bytes with one to six changes that know nothing of their meaning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        if not changed:
            return bytes(changed)
        _CHANGES[rng.randrange(len(_CHANGES))](rng, changed, pieces)
    return bytes(changed)


def place_in(rng: random.Random, data: Sequence[Any]) -> int:
    """An index, more often near the beginning, where headers are."""
    if rng.random() < 0.5:
        return rng.randrange(min(len(data), 128))
    return rng.randrange(len(data))


Change = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    data[place_in(rng, data)] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    data[place_in(rng, data)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    at, form = place_in(rng, data), rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    packed = struct.pack(form, rng.choice(NUMBERS) % (1 << 8 * size))
    data[at : at + size] = packed[: len(data) - at]


def _cut(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    del data[place_in(rng, data) :]


def _take_out(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    at = place_in(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 16, 100))]


def _double(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    at = place_in(rng, data)
    data[at:at] = data[at : at + rng.choice((1, 4, 16, 100))] * rng.choice((1, 2, 20))


def _insert(rng: random.Random, data: bytearray, pieces: Sequence[bytes]) -> None:
    new = rng.choice(pieces) if pieces and rng.random() < 0.7 else rng.randbytes(rng.choice((1, 9)))
    at = place_in(rng, data)
    data[at : at + rng.choice((0, len(new)))] = new


_CHANGES: tuple[Change, ...] = (
    _flip,
    _flip,
    _set,
    _number,
    _number,
    _cut,
    _take_out,
    _double,
    _insert,
)
