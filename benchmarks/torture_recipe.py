"""What `torture.py` and `long_run.py` train: a tiny recipe on pairs that are drawn for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# Dropout, batch norm, augmentation, an average of the weights, a short last batch, and intervals
# of which no two fall together for long.
RECIPE = """
name = "torture"
[data]
root = "{root}"
load_size = {load_size}
crop_size = {size}
[generator]
width = 4
dropout = 0.5
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 100
[train]
steps = {steps}
batch_size = 4
schedule = "linear"
ema_decay = 0.99
log_every = 3
sample_every = 5
sample_count = 2
checkpoint_every = 7
validate_every = 11
keep_checkpoints = 2
"""


def make_recipe(folder: Path, steps: int, size: int = 32) -> Path:
    """A recipe for ten pairs to train on and four to judge by, drawn below `folder`."""
    drawn = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        (folder / "pairs" / split).mkdir(parents=True)
        for number in range(count):
            colours = [tuple(int(v) for v in drawn.integers(30, 226, size=3)) for _ in range(3)]
            left, top, right, bottom = (
                int(v) for v in drawn.integers((2, 2, 22, 22), (12, 12, 38, 38))
            )
            pair = Image.new("RGB", (80, 40), colours[0])
            pen = ImageDraw.Draw(pair)
            pen.ellipse((left, top, right, bottom), colours[1])
            pen.rectangle((40, 0, 79, 39), colours[2])
            pen.ellipse((40 + left, top, 40 + right, bottom), colours[1], "black")
            pair.save(folder / "pairs" / split / f"{number:03}.png")
    path = folder / "torture.toml"
    root = (folder / "pairs").as_posix()
    path.write_text(RECIPE.format(root=root, steps=steps, size=size, load_size=size + 4))
    return path
