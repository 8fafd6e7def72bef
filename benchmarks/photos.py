"""Folders of images of one size for the benchmarks: drawn, or real ones cut to it."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
JPEG_QUALITY = 90


def images_in(folder: Path) -> list[Path]:
    """Image files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def draw_images(folder: Path, count: int, size: int) -> list[Path]:
    """As many images with the spectrum of photographs, PNG and JPEG in turn; always the same."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for number in range(count):
        image = torch.zeros(1, 3, size, size)
        side = 2
        while side <= size:
            # Details are as much fainter as they are smaller.
            octave = torch.randn(1, 3, side, side, generator=generator) / side
            image += F.interpolate(octave, (size, size), mode="bicubic")
            side *= 2
        levels = (127.5 + 55 * image / image.std()).clamp(0, 255).byte()
        pixels = Image.fromarray(levels[0].permute(1, 2, 0).contiguous().numpy())
        files.append(_save(pixels, folder, number, is_jpeg=number % 2 == 1))
    return files


def fit_images(source: Path, folder: Path, count: int, size: int) -> list[Path]:
    """The first images below a folder as RGB, their middle at that size; JPEG stays JPEG.

    Raises:
        SystemExit: one cannot be read.
    """
    files = []
    for number, path in enumerate(images_in(source)[:count]):
        try:
            with Image.open(path) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGB")
        except OSError as error:
            raise SystemExit(f"{path} cannot be read: {error}") from error
        fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
        # Profiles would be applied by one program and passed over by another.
        fitted.info.clear()
        files.append(_save(fitted, folder, number, is_jpeg=opened.format == "JPEG"))
    return files


def _save(image: Image.Image, folder: Path, number: int, *, is_jpeg: bool) -> Path:
    path = folder / f"photo-{number:05d}{'.jpg' if is_jpeg else '.png'}"
    image.save(path, quality=JPEG_QUALITY)
    return path
