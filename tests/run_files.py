"""Files as a training run leaves them, made without training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

HOSTILE = "</script><script>document.documentElement.dataset.pwned = 1</script><!--<img src=x>"
RECIPE = f"""
name = {json.dumps(HOSTILE)}
requires = []

[task]
name = "paired"

[data]
root = "data/shoes"
crop_size = 256
normalise = {{ mean = [0.5, 0.5], mode = "" }}

[[losses]]
name = "adversarial"
weight = 1.0

[[losses]]
name = "l1"
weight = 100.0
"""
ENVIRONMENT = {
    "img2img": "0.1.0",
    "plugins": {"img2img-tiny": "0.3"},
    "parameters": {"generator": 54413955},
    "nobody_knows": [1, None, HOSTILE],
}


def training_line(step: int, **losses: Any) -> str:
    record = {"step": step, "epoch": 0, "images": step, "elapsed_s": step / 4, "images_per_s": 4.0}
    return json.dumps({**record, "losses": losses}) + "\n"


def validation_line(step: int, l1: float) -> str:
    scores = {"l1": l1, "psnr": 17.1, "ssim": 0.7, "l1_source": 0.3, "l1_mean_target": 0.2}
    return json.dumps({"step": step, "validation": scores}) + "\n"


def add_sheets(run_dir: Path, steps: range, size: tuple[int, int] = (60, 44)) -> None:
    (run_dir / "samples").mkdir(exist_ok=True)
    for step in steps:
        sheet = Image.new("RGB", size, "white")
        ImageDraw.Draw(sheet).rectangle((5, 15, 15 + step % 30, 40), fill=(step % 256, 90, 160))
        sheet.save(run_dir / "samples" / f"step-{step:08d}.png")


def fill(run_dir: Path) -> None:
    """A run directory of 2,000 steps with four sheets."""
    (run_dir / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (run_dir / "environment.json").write_text(json.dumps(ENVIRONMENT), encoding="utf-8")
    noise = random.Random(0)
    lines = [
        training_line(step, adversarial=1 + noise.random(), l1=900 / step, **{HOSTILE: 1.0})
        for step in range(50, 2001, 50)
    ]
    lines += [validation_line(1000, 0.11), validation_line(2000, 0.09)]
    (run_dir / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    add_sheets(run_dir, range(500, 2001, 500))
