"""The checksum in TensorBoard's files, beside TensorBoard's own and a published value."""

import os

import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as slow

from img2img.report.crc32c import LANES, crc32c


def test_the_published_check_value():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    "size", [0, 1, 3, 4, 5, 300, 4 * LANES - 1, 4 * LANES, 4 * LANES + 1, 9 * LANES + 77]
)
def test_any_length(size):
    data = os.urandom(size)
    assert crc32c(data) == slow(data)


def test_zeros_and_ones_count():
    """Zeros at the beginning are what lanes are filled up with."""
    for data in (b"\0" * (5 * LANES), b"\xff" * (5 * LANES + 1), b"\0" * 70000 + b"a"):
        assert crc32c(data) == slow(data)
