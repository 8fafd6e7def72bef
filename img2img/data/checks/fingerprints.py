"""Hashes of images: of their very pixels, and of what they look like."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Neighbouring cells differ if by more than so many levels: so that plain areas, which are never
# quite plain after JPEG, give the same bits.
STEP = 3.0
# Bits of 128 that may differ.
NEAR = 10
# The hashes are sorted by each of so many parts, and each compared with the next few.
PARTS, NEXT = 8, 6


def pixel_hash(image: NDArray[np.uint8]) -> int:
    """64 bits of (H, W, 3), its shape included: equal for equal pixels, whatever the file."""
    digest = hashlib.blake2b(
        np.ascontiguousarray(image).data, digest_size=8, salt=str(image.shape).encode()[:16]
    )
    return int.from_bytes(digest.digest(), "little")


def look_hash(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """128 bits of a thumbnail (N, N): which of 8 x 9 and 9 x 8 cells are lighter than the next.

    A difference hash (N. Krawetz, 2013) both ways, which sizes and compression hardly change.
    """
    wide = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    high = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA).astype(np.float32)
    bits = np.diff(wide, axis=1) > STEP, np.diff(high, axis=0) > STEP
    first, second = (int.from_bytes(np.packbits(each).tobytes(), "big") for each in bits)
    return first, second


def near_pairs(looks: Hashes, near: int = NEAR) -> NDArray[np.int64]:
    """Pairs (i, j) of rows of (N, 2) whose 128 bits differ in at most `near`; some may be missed.

    Time and memory are linear in N: for each of some parts of the bits the rows are sorted with
    that part in front, and each is compared with those that follow (M. Charikar, STOC 2002).
    """
    found: list[NDArray[Any]] = []
    width = 128 // PARTS
    for part in range(PARTS):
        turned = _turned(looks, part * width)
        order = np.lexsort((turned[:, 1], turned[:, 0]))
        for step in range(1, min(NEXT + 1, len(order))):
            one, other = order[:-step], order[step:]
            differ = np.bitwise_count(looks[one] ^ looks[other]).sum(axis=1)
            close = differ <= near
            both = np.stack([one[close], other[close]], axis=1)
            found.append(np.sort(both, axis=1))
    if not found:
        return np.empty((0, 2), np.int64)
    return np.unique(np.concatenate(found).astype(np.int64), axis=0)


def equal_pairs(keys: Hashes) -> NDArray[np.int64]:
    """Each row of (N,) or (N, 2) that repeats an earlier one, as (the first such row, this one)."""
    # Hashes already: any odd factor mixes two of them.
    rows = keys if keys.ndim == 1 else keys[:, 0] * np.uint64(0x9E3779B97F4A7C15) + keys[:, 1]
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    firsts = first[inverse]
    repeats = np.flatnonzero(firsts != np.arange(len(rows)))
    return np.stack([firsts[repeats], repeats], axis=1).astype(np.int64)


def _turned(looks: Hashes, by: int) -> Hashes:
    """All 128 bits turned left by so many."""
    high, low = looks[:, 0], looks[:, 1]
    if by >= 64:
        high, low, by = low, high, by - 64
    if by == 0:
        return np.stack([high, low], axis=1)
    left, right = np.uint64(by), np.uint64(64 - by)
    return np.stack([high << left | low >> right, low << left | high >> right], axis=1)
