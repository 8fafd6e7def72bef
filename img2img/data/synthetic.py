"""Pairs drawn by the program itself: line drawings of small landscapes, and the same in colour."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from img2img.data.images import Image, Split

# Drawn this much larger and averaged down, which is what smooths the lines.
OVERSAMPLING = 3
DAY_SKY, DAY_HORIZON = (92, 160, 230), (214, 236, 250)
NIGHT_SKY, NIGHT_HORIZON = (16, 20, 60), (70, 62, 120)
GROUND_FAR, GROUND_NEAR = (156, 200, 92), (74, 132, 52)
NIGHT_TINT = np.array([0.34, 0.38, 0.58])

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Synthetic:
    """Drawings of small landscapes and their coloured versions; needs no files.

    A sun makes a day and a crescent a night, so colours follow from the drawing, but not pixel by
    pixel: a network has to look around.

    Args:
        count: training pairs; a tenth as many, at least 16, are held out.
        size: height and width, in pixels.
        drawing_seed: which landscapes are drawn.
    """

    def __init__(
        self, split: Split, *, count: int = 400, size: int = 72, drawing_seed: int = 0
    ) -> None:
        if count < 1 or size < 16:
            raise ValueError(
                f"count must be at least 1 and size at least 16, not {count} and {size}"
            )
        self.split = split
        self.count = count if split == "train" else max(16, count // 10)
        self.size = size
        self.seed = drawing_seed

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{self.split} landscape {index}"

    def pair(self, index: int) -> tuple[Image, Image]:
        rng = np.random.default_rng([self.seed, self.split == "val", index])
        return draw_landscape(rng, self.size)


def draw_landscape(rng: np.random.Generator, size: int) -> tuple[Image, Image]:
    """One drawing and its coloured version, each (size, size, 3) uint8."""
    canvas = _Canvas(size)
    night = bool(rng.random() < 0.5)
    horizon = rng.uniform(0.5, 0.68)
    _sky_and_ground(canvas, rng, horizon, night)
    heaven = float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.12, 0.26))
    _moon(canvas, heaven) if night else _sun(canvas, heaven)
    for _ in range(int(rng.integers(0, 3))):
        _cloud(canvas, rng)
    # Far things first, so that near ones cover them.
    things = [_house, _house, _round_tree, _round_tree, _pine, _pine]
    chosen = [things[i] for i in rng.choice(len(things), int(rng.integers(3, 6)), replace=False)]
    feet = np.sort(rng.uniform(horizon + 0.05, 0.95, len(chosen)))
    for thing, foot in zip(chosen, feet, strict=True):
        scale = 0.5 + 0.9 * (float(foot) - horizon)
        thing(canvas, (float(rng.uniform(0.1, 0.9)), float(foot)), scale)
    return canvas.finish(night)


class _Canvas:
    """Draws everything twice: a black outline on white, and filled. Coordinates are in [0, 1]."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = size * OVERSAMPLING
        self.lines = PillowImage.new("L", (self.side, self.side), 255)
        self.paint = PillowImage.new("RGB", (self.side, self.side))
        # Lamps and the moon shine at night; everything else is tinted.
        self.glow = PillowImage.new("L", (self.side, self.side), 0)
        self.stroke = max(1, round(self.side / 60))

    def polygon(self, points: list[Point], colour: Colour, *, glows: bool = False) -> None:
        corners = [(x * self.side, y * self.side) for x, y in points]
        ImageDraw.Draw(self.paint).polygon(corners, fill=colour)
        ImageDraw.Draw(self.glow).polygon(corners, fill=255 if glows else 0)
        pen = ImageDraw.Draw(self.lines)
        pen.polygon(corners, fill=255)
        pen.line([*corners, corners[0]], fill=0, width=self.stroke, joint="curve")

    def ellipse(
        self, centre: Point, rx: float, ry: float, colour: Colour, *, glows: bool = False
    ) -> None:
        turns = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        x, y = centre
        points = [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]
        self.polygon(points, colour, glows=glows)

    def finish(self, night: bool) -> tuple[Image, Image]:
        paint = np.asarray(self.paint).astype(np.float64)
        if night:
            glow = np.asarray(self.glow)[..., None] > 0
            paint = np.where(glow, paint, paint * NIGHT_TINT)
        coloured = PillowImage.fromarray(np.rint(paint).astype(np.uint8)).reduce(OVERSAMPLING)
        lines = self.lines.reduce(OVERSAMPLING).convert("RGB")
        return np.array(lines), np.array(coloured)


def _sky_and_ground(canvas: _Canvas, rng: np.random.Generator, horizon: float, night: bool) -> None:
    x = np.linspace(0, 1, canvas.side)
    waves = rng.uniform(0.01, 0.05) * np.sin(x * rng.uniform(3, 8) + rng.uniform(0, 6))
    line = horizon + waves
    y = np.linspace(0, 1, canvas.side)[:, None, None]
    sky = NIGHT_SKY if night else DAY_SKY
    low = NIGHT_HORIZON if night else DAY_HORIZON
    above = np.array(sky) + (np.array(low) - sky) * np.clip(y / horizon, 0, 1)
    share = np.clip((y - horizon) / (1 - horizon), 0, 1)
    below = np.array(GROUND_FAR) + (np.array(GROUND_NEAR) - GROUND_FAR) * share
    ground = y[..., 0] >= line[None, :]
    shape = (canvas.side, canvas.side, 3)
    pixels = np.where(ground[..., None], below, np.broadcast_to(above, shape))
    canvas.paint.paste(PillowImage.fromarray(np.rint(pixels).astype(np.uint8)))
    # The night's sky has its colours already, so the tint must leave it alone.
    canvas.glow.paste(PillowImage.fromarray(np.where(ground, 0, 255).astype(np.uint8)))
    points = [
        (float(a) * canvas.side, float(b) * canvas.side) for a, b in zip(x, line, strict=True)
    ]
    ImageDraw.Draw(canvas.lines).line(points, fill=0, width=canvas.stroke)


def _sun(canvas: _Canvas, at: Point) -> None:
    canvas.ellipse(at, 0.09, 0.09, (255, 214, 64), glows=True)


def _moon(canvas: _Canvas, at: Point) -> None:
    x, y = at
    outer = np.linspace(-2.0, 2.0, 24)
    inner = np.linspace(1.6, -1.6, 18)
    points = [(x - 0.1 * math.cos(t), y + 0.1 * math.sin(t)) for t in outer]
    points += [(x + 0.045 - 0.085 * math.cos(t), y + 0.085 * math.sin(t)) for t in inner]
    canvas.polygon(points, (246, 240, 200), glows=True)


def _cloud(canvas: _Canvas, rng: np.random.Generator) -> None:
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.36)
    turns = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    puffs = 1 + 0.16 * np.abs(np.sin(turns * 2.5))
    points = [
        (float(x + 0.12 * p * math.cos(t)), float(y + 0.045 * p * math.sin(t)))
        for t, p in zip(turns, puffs, strict=True)
    ]
    canvas.polygon(points, (240, 244, 250))


def _house(canvas: _Canvas, foot: Point, scale: float) -> None:
    x, y = foot
    w, h = 0.15 * scale, 0.22 * scale
    canvas.polygon([(x - w, y), (x - w, y - h), (x + w, y - h), (x + w, y)], (236, 208, 160))
    roof = [(x - w * 1.25, y - h), (x, y - h * 1.85), (x + w * 1.25, y - h)]
    canvas.polygon(roof, (188, 62, 46))
    door = [(x - w * 0.7, y), (x - w * 0.7, y - h * 0.6), (x - w * 0.2, y - h * 0.6)]
    canvas.polygon([*door, (x - w * 0.2, y)], (110, 66, 34))
    window = [(x + w * 0.2, y - h * 0.75), (x + w * 0.75, y - h * 0.75)]
    window += [(x + w * 0.75, y - h * 0.35), (x + w * 0.2, y - h * 0.35)]
    canvas.polygon(window, (255, 226, 120), glows=True)


def _round_tree(canvas: _Canvas, foot: Point, scale: float) -> None:
    x, y = foot
    w = 0.03 * scale
    trunk = [(x - w, y), (x - w, y - 0.2 * scale), (x + w, y - 0.2 * scale), (x + w, y)]
    canvas.polygon(trunk, (120, 78, 42))
    canvas.ellipse((x, y - 0.29 * scale), 0.13 * scale, 0.14 * scale, (214, 122, 38))


def _pine(canvas: _Canvas, foot: Point, scale: float) -> None:
    x, y = foot
    w = 0.12 * scale
    for low, high in ((0.06, 0.28), (0.2, 0.42)):
        shrink = 1 - low
        points = [(x - w * shrink, y - low * scale), (x, y - high * scale)]
        canvas.polygon([*points, (x + w * shrink, y - low * scale)], (18, 92, 74))
