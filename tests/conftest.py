"""What several test files share: a registry of the built-in components, and a small folder."""

import gc
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

# Before torch: test networks are so small that a second thread only waits, and waiting threads of
# several test processes starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image, ImageDraw

from img2img import signals
from img2img.plugins import load_plugins
from img2img.registry import Registry


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: a profile or an archive holds the second it was made in, and test
    processes, each of which makes its own, must agree on names."""
    return f"{argname}_of_{len(val)}" if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """What the tests have imported is not looked through at each collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """So that what is left at the end is found."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reaches for another machine fails, and loudly, however it handles exceptions."""

    def refuse(address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("", "127.0.0.1", "::1", "localhost"):
            pytest.fail(f"something reached for the network: {address}")

    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def connect(self: socket.socket, address: object, real: object = real) -> object:
            refuse(address)
            return real(self, address)  # type: ignore[operator]  # a method of the class

        monkeypatch.setattr(socket.socket, name, connect)


@pytest.fixture(autouse=True)
def signals_answered() -> Iterator[None]:
    """Signals are answered in each test, and no test changes how for those that follow it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Whoever starts the tests in the background would have them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    signals._asked = False
    assert after == before


@pytest.fixture
def registry() -> Registry:
    """A fresh registry that holds the built-in components and nothing else."""
    return load_plugins(entry_points=False).registry


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    """A data root with train/ (6) and val/ (2): 64x32 files, left a drawing, right a photo."""
    root = tmp_path / "pairs"
    for split, count in (("train", 6), ("val", 2)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            seed = number + (100 if split == "val" else 0)
            _draw_pair(seed).save(root / split / f"{number:03}.png")
    return root


@pytest.fixture(scope="session")
def tiny_tables() -> str:
    """A recipe for side-by-side files in `pairs`, but for how long: it ends in its `[train]`."""
    return """
name = "tiny"
[data]
root = "pairs"
load_size = 34
crop_size = 32
[generator]
width = 4
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
"""


def _draw_pair(seed: int) -> Image.Image:
    """Left the outline of an ellipse in black on white, right the same ellipse in colours."""
    random = np.random.default_rng(seed)
    left, top = (int(value) for value in random.integers(2, 10, size=2))
    right, bottom = (int(value) for value in random.integers(20, 30, size=2))
    ground, shape = (tuple(int(v) for v in random.integers(30, 226, size=3)) for _ in range(2))
    drawing = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(drawing).ellipse((left, top, right, bottom), outline="black")
    photo = Image.new("RGB", (32, 32), ground)
    ImageDraw.Draw(photo).ellipse((left, top, right, bottom), fill=shape)
    pair = Image.new("RGB", (64, 32))
    pair.paste(drawing, (0, 0))
    pair.paste(photo, (32, 0))
    return pair
