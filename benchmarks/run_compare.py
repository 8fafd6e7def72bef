"""Holds run directories against each other and looks for what cannot be read in one."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

# What a clock says, in metrics.jsonl and in state.json; two runs never agree on it.
TIMES = frozenset(["elapsed_s", "images_per_s", "seconds"])


def faults(run: Path, *, running: bool = False) -> list[str]:
    """What is unreadable or left over in a run directory, a line each.

    Args:
        run: the run directory.
        running: it was left by a process that was killed: then files that are named as unfinished
            may lie about, and the last line of `metrics.jsonl` may be cut off.
    """
    found = []
    for path in sorted(run.rglob("*")):
        place = path.relative_to(run)
        unfinished = any(part.startswith(".partial-") for part in place.parts)
        if unfinished and not running:
            found.append(f"{place} is left over")
        # A checkpoint older than the newest may be on its way out when the process is killed.
        leaving = running and place.parts[0] == "checkpoints" and not _in_newest(run, place)
        if unfinished or leaving or not path.is_file():
            continue
        for pattern, read in READERS.items():
            if re.fullmatch(pattern, path.name):
                try:
                    read(path)
                # Whatever a reader raises, the file cannot be read.
                except Exception as error:
                    found.append(f"{place}: {type(error).__name__}: {error}")
    if not (newest := _newest(run)):
        return found
    files = {path.name for path in newest.iterdir()}
    wanted = {"networks.safetensors", "optimizers.safetensors", "loose.safetensors", "state.json"}
    found += [f"{newest.name} lacks {name}" for name in sorted(wanted - files)]
    found += [f"{newest.name}: {name} is not what was written" for name in _damaged(newest)]
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").is_file() else ""
    lines = text.splitlines()[:-1] if running and not text.endswith("\n") else text.splitlines()
    found += [f"metrics.jsonl, line {n}: not JSON" for n, line in enumerate(lines, 1) if _no(line)]
    return found


def differences(run: Path, whole: Path) -> list[str]:
    """Where a run that was interrupted ended elsewhere than one that was not, a line each."""
    found = []
    mine, theirs = _newest(run), _newest(whole)
    if mine is None or theirs is None or mine.name != theirs.name:
        found.append(f"the last checkpoint: {mine} and {theirs}")
    else:
        for name in ("networks", "optimizers", "loose"):
            found += _unlike(mine / f"{name}.safetensors", theirs / f"{name}.safetensors")
        states = [_timeless(json.loads((it / "state.json").read_text())) for it in (mine, theirs)]
        # Of the files beside it, which hold times as well.
        states = [{k: v for k, v in state.items() if k != "files"} for state in states]
        found += ["state.json"] * (states[0] != states[1])
    for name in ("model.safetensors", "best.safetensors"):
        if (run / name).exists() or (whole / name).exists():
            found += _unlike(run / name, whole / name)
    metrics = [list(_lines(it / "metrics.jsonl")) for it in (run, whole)]
    if metrics[0] != metrics[1]:
        odd = [
            line for line in metrics[0] + metrics[1] if (line in metrics[0]) != (line in metrics[1])
        ]
        found.append(f"metrics.jsonl: {odd[:2] or 'the order or the number of lines'}")
    sheets = [{p.name: p.read_bytes() for p in (it / "samples").glob("*")} for it in (run, whole)]
    names = sorted(sheets[0].keys() | sheets[1].keys())
    found += [f"samples/{name}" for name in names if sheets[0].get(name) != sheets[1].get(name)]
    scalars = [events(it / "tensorboard") for it in (run, whole)]
    for tag in sorted(scalars[0].keys() | scalars[1].keys()):
        if scalars[0].get(tag) != scalars[1].get(tag):
            found.append(f"TensorBoard: {tag}")
    entries = [{p.name for p in it.iterdir()} for it in (run, whole)]
    found += [f"only one holds {name}" for name in sorted(entries[0] ^ entries[1])]
    return found


def events(folder: Path) -> dict[str, list[tuple[int, float | bytes]]]:
    """What TensorBoard shows: by tag every step with its value; an image as a digest of its file.

    What it has of speed is left out, since two runs never agree on it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every resume
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    tags = reader.Tags()
    found: dict[str, list[tuple[int, float | bytes]]] = {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in tags["scalars"]
        if not tag.startswith("speed/")
    }
    for tag in tags["images"]:
        found[tag] = [
            (event.step, hashlib.sha256(event.encoded_image_string).digest())
            for event in reader.Images(tag)
        ]
    return found


def last_step(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    newest = _newest(run)
    return 0 if newest is None else int(newest.name[5:])


def report_data(path: Path) -> dict[str, Any]:
    """The block of data in a `report.html`.

    Raises:
        ValueError: it holds none, or is cut off.
    """
    text = path.read_text(encoding="utf-8")
    block = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    if block is None or not text.rstrip().endswith("</html>"):
        raise ValueError("no whole page")
    found = json.loads(block[1])
    assert isinstance(found, dict)
    return found


def _open_tensors(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # a method of the file's, which is no dict
            file.get_tensor(name)


def _open_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


READERS: dict[str, Callable[[Path], object]] = {
    r".*\.safetensors": _open_tensors,
    r".*\.png": _open_picture,
    r".*\.json": lambda path: json.loads(path.read_text()),
    r".*\.toml": lambda path: tomllib.loads(path.read_text()),
    r"report\.html": report_data,
}


def _newest(run: Path) -> Path | None:
    found = [p for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdecimal()]
    return max(found, default=None, key=lambda path: int(path.name[5:]))


def _in_newest(run: Path, place: Path) -> bool:
    newest = _newest(run)
    return newest is not None and len(place.parts) > 1 and place.parts[1] == newest.name


def _damaged(checkpoint: Path) -> list[str]:
    """Files that are not as the checkpoint's own list of SHA-256 digests has them."""
    found = []
    for listing in checkpoint.glob("*.json"):
        for name, digest in _digests(json.loads(listing.read_text())):
            file = checkpoint / name
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                found.append(name)
    return found


def _digests(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of a file name and the SHA-256 that stands below it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _digests(inner, key if "." in key else name)
    elif isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        yield name, value


def _unlike(mine: Path, theirs: Path) -> list[str]:
    if not (mine.is_file() and theirs.is_file()):
        return [f"{mine.name} is only in one"]
    try:
        tensors = load_file(mine), load_file(theirs)
    except SafetensorError as error:
        return [f"{mine.name}: {error}"]
    if tensors[0].keys() != tensors[1].keys():
        return [f"{mine.name}: other names"]
    unlike = [name for name, value in tensors[0].items() if not _same(value, tensors[1][name])]
    return [f"{mine.name}: {len(unlike)} tensors, {unlike[0]} first"] if unlike else []


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    # As bytes, so that NaN is NaN and -0 is not 0.
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes())


def _lines(path: Path) -> Iterator[Any]:
    for line in path.read_text().splitlines() if path.is_file() else ():
        yield line if _no(line) else _timeless(json.loads(line))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return value


def _no(line: str) -> bool:
    try:
        return not isinstance(json.loads(line), dict)
    except ValueError:
        return True
