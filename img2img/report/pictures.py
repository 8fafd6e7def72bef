"""Pictures of a run for its report: the same samples at several steps, each picture once."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image

from img2img.report.cells import CHUNK, Box, Layout, text_to_layout

MAX_SHEETS = 24
MAX_PICTURE = (768, 768)  # pixels
MAX_SHEET_SIZE = (1600, 6000)  # of a sheet that does not say where its images are
MAX_SHEETS_BYTES = 12_000_000  # all pictures together; base64 adds a third, and a mail holds that
COLUMNS = ("source", "output", "target")
FEW_COLOURS = 256  # maps of labels and drawings: exact files of them may be smaller


def read_samples(folder: Path, remarks: list[str]) -> dict[str, Any]:
    """Sample sheets, evenly chosen, as pictures that a page can show.

    Returns:
        `samples`: the step and the `outputs` of each sheet, or the `sheet` as a whole where it does
        not say where its images are, or is of other samples than the last; `pairs`: the `source`
        and the `target` that all outputs belong to; `samples_found`: how many sheets there are.
    """
    paths = folder.glob("step-*.png")
    found = sorted((int(p.stem[5:]), p) for p in paths if p.stem[5:].isdecimal())
    shown = min(len(found), MAX_SHEETS)
    chosen = [found[round(i * (len(found) - 1) / max(1, shown - 1))] for i in range(shown)]
    reader = _Reader(shown)
    samples = []
    for step, path in reversed(chosen):  # the last says which samples they are
        try:
            samples.append({"step": step, **reader.read(path)})
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            remarks.append(f"{path.name} could not be read: {error}")
    return {"samples": samples[::-1], "pairs": reader.pairs, "samples_found": len(found)}


class _Reader:
    """Takes sheets apart; of those that show the same pairs, sources and targets are kept once."""

    def __init__(self, count: int) -> None:
        self.pairs: list[dict[str, Any]] = []
        self._pairs_seen: list[str] | None = None
        self._count = count

    def read(self, path: Path) -> dict[str, Any]:
        with Image.open(path) as opened:
            layout = text_to_layout(opened.info.get(CHUNK), opened.size)
            sheet = opened.convert("RGB")
        if layout is None or layout.columns != COLUMNS:
            return self._whole(sheet)
        seen = [_digest(_cut(sheet, row[i], layout)) for row in layout.rows for i in (0, 2)]
        # Of each row an output a step, and one source and one target.
        budget = MAX_SHEETS_BYTES // (len(layout.rows) * (self._count + 2))
        if self._pairs_seen is None:
            self._pairs_seen = seen
            for source, _, target in layout.rows:
                pair = {"source": source, "target": target}
                self.pairs.append(
                    {name: _encode(_cut(sheet, box, layout), budget) for name, box in pair.items()}
                )
        elif self._pairs_seen != seen:
            return self._whole(sheet)
        outputs = [_encode(_cut(sheet, row[1], layout), budget) for row in layout.rows]
        return {"outputs": outputs}

    def _whole(self, sheet: Image.Image) -> dict[str, Any]:
        sheet.thumbnail(MAX_SHEET_SIZE, Image.Resampling.LANCZOS)
        return {"sheet": _encode(sheet, MAX_SHEETS_BYTES // (self._count + 2))}


def _cut(sheet: Image.Image, box: Box, layout: Layout) -> Image.Image:
    """One image out of a sheet, as large as it was before it was enlarged, if that is not much."""
    size = ((box[2] - box[0]) // layout.scale, (box[3] - box[1]) // layout.scale)
    picture = sheet.crop(box).resize(size, Image.Resampling.NEAREST)
    picture.thumbnail(MAX_PICTURE, Image.Resampling.LANCZOS)
    return picture


def _digest(picture: Image.Image) -> str:
    return hashlib.sha256(str(picture.size).encode() + picture.tobytes()).hexdigest()


def _encode(picture: Image.Image, budget: int) -> dict[str, Any]:
    """A picture as a WebP data URI of at most `budget` bytes before base64."""
    data = _webp(picture)
    if picture.getcolors(FEW_COLOURS) is not None:
        data = min(data, _webp(picture, lossless=True), key=len)
    while len(data) > budget and min(picture.size) >= 8:
        picture.thumbnail((picture.width * 4 // 5, picture.height * 4 // 5))
        data = _webp(picture)
    source = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    return {"src": source, "width": picture.width, "height": picture.height}


def _webp(picture: Image.Image, *, lossless: bool = False) -> bytes:
    data = io.BytesIO()
    # Sharp YUV: plain chroma subsampling washes out thin coloured lines, as in edge drawings.
    options: dict[str, Any] = {"quality": 86, "method": 3, "use_sharp_yuv": True}
    picture.save(data, "WEBP", lossless=lossless, **options)
    return data.getvalue()
