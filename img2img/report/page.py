"""Writes `report.html`, a training run as one page that people can send to each other.

All of it comes from files in the run directory, so it can be written at any time: during a run,
after a crash, years later without torch. `page.html` beside this module draws one block of JSON.
"""

import base64
import io
import json
import math
import statistics
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from img2img.files import whole_file

BUCKETS = 300  # a curve is a few hundred pixels wide: more points would cost size and show nothing
SMOOTHING = 0.04  # reach of the moving average to either side, as a share of the logged values
MAX_WARNINGS = 20  # of all kinds; a sick run has a few
MAX_SHEETS = 24
MAX_SHEET_SIZE = (1600, 6000)  # pixels
MAX_SHEETS_BYTES = 12_000_000  # all pictures together; base64 adds a third, and a mail holds that


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory and returns its path.

    Missing and damaged files leave a gap or a remark in the page, never an error. An older report
    is replaced in one step: somebody who opens it meanwhile never gets half of a page.

    Raises:
        OSError: the directory does not exist or cannot be written.
    """
    template = resources.files("img2img.report").joinpath("page.html").read_text(encoding="utf-8")
    # Names in a recipe are anybody's text. Without these three characters nothing in the block can
    # end the script element or start a comment; JSON reads the escapes back as what they stand for.
    block = json.dumps(_collect(run_dir), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        block = block.replace(character, f"\\u{ord(character):04x}")
    report = run_dir / "report.html"
    with whole_file(report) as unfinished:
        unfinished.write_text(template.replace("__RUN__", block), encoding="utf-8")
    return report


def _collect(run_dir: Path) -> dict[str, Any]:
    remarks: list[str] = []
    recipe = _load(run_dir / "recipe.toml", tomllib.loads, remarks)
    environment = _load(run_dir / "environment.json", json.loads, remarks)
    tables = {key: value for key, value in recipe.items() if _has_tables(value)}
    groups = {"": {key: value for key, value in recipe.items() if key not in tables}, **tables}
    return {
        "name": str(recipe.get("name") or run_dir.resolve().name),
        "recipe": [{"table": key, "rows": list(_rows("", group))} for key, group in groups.items()],
        "environment": list(_rows("", environment)),
        **_metrics(_load(run_dir / "metrics.jsonl", str, remarks) or "", remarks),
        **_samples(run_dir / "samples", remarks),
        "remarks": remarks,
    }


def _load(path: Path, parse: Callable[[str], Any], remarks: list[str]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        pass  # the page says what is not there yet
    except (OSError, ValueError) as error:
        remarks.append(f"{path.name} could not be read: {error}")
    return {}


def _has_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_tables, value)))


def _rows(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """One row a value: nested tables get dotted keys, and entries of a [[list]] their name."""
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _rows(f"{key}.{name}" if key else name, item)
    elif isinstance(value, list) and _has_tables(value):
        for n, item in enumerate(value, 1):
            rest = dict(item) if isinstance(item, dict) else item
            name = str(rest.pop("name", n) if isinstance(item, dict) else n)
            yield from _rows(f"{key}.{name}" if key else name, rest)
    elif isinstance(value, int) and key.startswith("parameters."):
        yield key, f"{value:,}"
    else:
        yield key, value if isinstance(value, str) and value else json.dumps(value, default=str)


def _metrics(text: str, remarks: list[str]) -> dict[str, Any]:
    """Losses and validation scores as curves, and how far the run has come."""
    found: dict[str, dict[str, dict[int, float]]] = {"losses": {}, "validation": {}}
    progress: dict[str, float] = {}
    speeds: list[float] = []
    warnings: dict[str, list[str]] = {}
    unreadable = 0
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            unreadable += 1
            continue
        for kind, by_name in found.items():
            values = record.get(kind)
            for name, value in values.items() if isinstance(values, dict) else ():
                # By step, and the later line wins: a resumed run repeats what its checkpoint lacks.
                by_name.setdefault(name, {})[step] = _number(value)
        _note_warning(record, step, warnings)
        progress["step"] = step
        for key in ("images", "elapsed_s", "images_per_s"):
            if not math.isnan(number := _number(record.get(key))):
                progress[key] = number
                speeds += [number] if key == "images_per_s" else []
    skipped = warnings.pop("unreadable", [])
    if skipped:
        more = f" (and {len(skipped) - 1:,} more like it)" if len(skipped) > 1 else ""
        warnings["unreadable"] = [f"{skipped[0]}{more}"]
    remarks += [message for told in warnings.values() for message in told][:MAX_WARNINGS]
    if unreadable:
        remarks.append(f"Lines of metrics.jsonl that could not be read: {unreadable}.")
    if speeds:  # the median, because the first steps compile and warm up
        progress["images_per_s"] = statistics.median(speeds)
    curves = {kind: [_curve(*item) for item in by_name.items()] for kind, by_name in found.items()}
    return {"progress": progress, **curves}


def _note_warning(record: dict[str, Any], step: int, warnings: dict[str, list[str]]) -> None:
    """What the run pointed out about itself, by kind, and whether it has passed since."""
    told, passed = record.get("warning"), record.get("passed")
    if isinstance(told, dict):
        messages = warnings.setdefault(str(told.get("kind")), [])
        messages.append(f"Step {step:,}: {told.get('message')}.")
    if isinstance(passed, dict) and (messages := warnings.get(str(passed.get("kind")), [])):
        messages[-1] += f" This had passed at step {step:,}."


def _number(value: Any) -> float:
    """NaN for all that cannot be drawn: infinities, null, text, numbers too large to be summed."""
    try:
        return number if abs(number := float(value)) < 1e200 else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _curve(name: str, by_step: dict[int, float]) -> dict[str, Any]:
    steps = sorted(by_step)
    values = [by_step[step] for step in steps]
    count = len(values)
    broken = {i for i, value in enumerate(values) if math.isnan(value)}
    kept = {0, count - 1}
    bucket = math.ceil(count / BUCKETS)
    for start in range(0, count, bucket):  # of each bucket both extremes, so that no spike is lost
        span = range(start, min(start + bucket, count))
        if finite := [i for i in span if i not in broken]:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        kept.update([i for i in span if i in broken][:1])  # and a gap
    # Smoothed from all values, since the kept ones are extremes; centred, so that nothing lags;
    # with weights that fall off to both sides, so that a spike leaves a small hill and not a box.
    reach = min(500, round(count * SMOOTHING)) + 1

    def smoothed(i: int) -> float:
        around = [j for j in range(max(0, i - reach), min(count, i + reach)) if j not in broken]
        total = math.fsum(values[j] * (reach - abs(i - j)) for j in around)
        return math.nan if i in broken else total / sum(reach - abs(i - j) for j in around)

    return {
        "name": name,
        "steps": [steps[i] for i in sorted(kept)],
        "values": [_short(values[i]) for i in sorted(kept)],
        "smoothed": [_short(smoothed(i)) for i in sorted(kept) if count >= 10],
        "broken": {"count": len(broken), "first": steps[min(broken)]} if broken else None,
    }


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def _samples(folder: Path, remarks: list[str]) -> dict[str, Any]:
    paths = folder.glob("step-*.png")
    found = sorted((int(p.stem[5:]), p) for p in paths if p.stem[5:].isdecimal())
    shown = min(len(found), MAX_SHEETS)
    samples = []
    for i in range(shown):  # evenly, with the first and the last among them
        step, path = found[round(i * (len(found) - 1) / max(1, shown - 1))]
        try:
            samples.append({"step": step, **_encode(path, MAX_SHEETS_BYTES // shown)})
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            remarks.append(f"{path.name} could not be read: {error}")
    return {"samples": samples, "samples_found": len(found)}


def _encode(path: Path, budget: int) -> dict[str, Any]:
    """One sheet as a WebP data URI of at most `budget` bytes before base64."""
    with Image.open(path) as sheet:
        picture = sheet.convert("RGB")
    picture.thumbnail(MAX_SHEET_SIZE, Image.Resampling.LANCZOS)
    while True:
        # Sharp YUV: plain chroma subsampling washes out thin coloured lines, as in edge drawings.
        picture.save(data := io.BytesIO(), "WEBP", quality=86, method=3, use_sharp_yuv=True)
        if data.tell() <= budget:
            break
        picture.thumbnail((picture.width * 4 // 5, picture.height * 4 // 5))
    source = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    return {"src": source, "width": picture.width, "height": picture.height}
