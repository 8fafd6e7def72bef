"""A model file into a file for other programs, which is kept only if it gives the same images."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from img2img.bundle import BundleInfo, find_bundle, read_info
from img2img.environment import version
from img2img.errors import Img2ImgError, RequestError
from img2img.exporting.expected import Expected, expect
from img2img.exporting.graph import ImageGraph, drop_noise
from img2img.exporting.probes import Probe, make_fixed_probes, make_probes
from img2img.exporting.running import (
    ROUGH,
    RUNTIMES,
    TOLERANCE,
    Difference,
    Run,
    as_run,
    compare,
    open_file,
)
from img2img.exporting.writing import (
    SUFFIXES,
    Format,
    Sizes,
    check_size,
    trace,
    write,
)
from img2img.files import whole_file
from img2img.hub import first_sentence
from img2img.inference import Translator
from img2img.rebuild import load_translator
from img2img.registry import Registry
from img2img.tasks.base import image_channels_of

# Of the training crops, where a bundle does not say.
CROP = 256
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Exported:
    """What became of a model.

    Attributes:
        path: the file.
        format: its kind.
        sizes: of the images it takes.
        channels: of the images that go in and come out.
        difference: the largest that was found between its outputs and the model's, of [0, 1].
        notes: what the file says of itself.
        remarks: what its user should know, a sentence each.
    """

    path: Path
    format: Format
    sizes: Sizes
    channels: tuple[int, int]
    difference: float
    notes: dict[str, Any]
    remarks: tuple[str, ...]


def export_model(
    model: Path,
    registry: Registry,
    *,
    out: Path | None = None,
    format: Format | None = None,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model from image to image as one file for other programs.

    The file takes images of any height and width; of one only, where `size` asks for that or the
    network cannot be written otherwise. It is tried on several images first.

    Args:
        model: a run directory or a bundle.
        registry: where its generator and task are.
        out: the file, written whole or not at all; `model.onnx` or `model.pt2` beside the model
            unless given.
        format: `onnx`, or `torch` for `torch.export`; what the suffix of `out` says unless given.
        size: height and width of all images, in pixels.
        overwrite: replace a file that is there.

    Raises:
        ModelFileError: `model` is none.
        RequestError: what was asked for does not fit, or packages are missing.
        Img2ImgError: it cannot be written, or gives something else than the model.
    """
    bundle = find_bundle(model)
    out, format = resolve_output(bundle, out, format)
    _check_output(out, bundle.stem, overwrite)
    check_packages(format)
    translator = load_translator(model, registry, device=torch.device("cpu"))
    info = read_info(bundle)
    noisy = drop_noise(translator.module)
    source, target = task_graphs(translator.task, info.task["name"])
    graph = ImageGraph(translator, source, target).requires_grad_(False)
    check_size(graph, format)
    channels = image_channels_of(translator.task)

    failures: list[Exception] = []
    for sizes, probes in _attempts(translator, channels[0], info, size):
        try:
            expected = expect(translator, probes)
            notes = describe(translator, info, sizes)
            found = _attempt(graph, sizes, probes, expected, out, format, notes)
        except OSError as error:
            raise RequestError(f"cannot write {out}: {error.strerror or error}") from error
        except Difference as error:
            hint = "" if sizes.size else "; --size writes it for one size of images, which may do"
            raise Img2ImgError(f"{out} was not written: {error}{hint}") from error
        # Whatever torch, its exporters, the runtime or a plugin raise for what they cannot.
        except Exception as error:
            failures.append(error)
            continue
        remarks = tuple(_remarks(translator, sizes, noisy, failures))
        return Exported(out, format, sizes, channels, found, notes, remarks)
    hint = "; --format torch may do" if format == "onnx" else ""
    raise Img2ImgError(
        f"this model cannot be written for {RUNTIMES[format]}: "
        f"{first_sentence(failures[-1], 200)}{hint}"
    ) from failures[-1]


def resolve_output(bundle: Path, out: Path | None, format: Format | None) -> tuple[Path, Format]:
    """The file to write and its format, from what was asked for.

    Raises:
        RequestError: the file's suffix is of no format, or of another one.
    """
    if out is None:
        format = format or "onnx"
        return bundle.with_suffix(SUFFIXES[format]), format
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    named = by_suffix.get(out.suffix.lower())
    if named is None:
        raise RequestError(f"--out {out}: the name must end in {' or '.join(by_suffix)}")
    if format is not None and format != named:
        raise RequestError(f"--out {out} and --format {format} disagree; leave --format out")
    return out, named


def _check_output(out: Path, stem: str, overwrite: bool) -> None:
    try:
        if out.is_dir():
            raise RequestError(f"{out} is a folder; name the file: {out / stem}{out.suffix}")
        if out.exists() and not overwrite:
            raise RequestError(f"{out} is already there; use --overwrite or another name")
    # A name that is too long, or a folder that may not be entered.
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror or error}") from error


def check_packages(format: Format) -> None:
    """Raise a RequestError that says how to install what a format needs, where that is missing."""
    if format != "onnx":
        return
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"ONNX files need {', '.join(missing)}: pip install 'img2img[onnx]' (or use "
            f"--format torch, which needs nothing more)"
        )


def task_graphs(task: Any, name: str) -> tuple[nn.Module, nn.Module]:
    """What a task does to images on their way in and out, as modules.

    Raises:
        RequestError: the task does not say.
    """
    makers = ("source_graph", "target_graph")
    if lacking := [maker for maker in makers if not hasattr(task, maker)]:
        raise RequestError(
            f"the task {name!r} does not say how images become tensors in a file for other "
            f"programs: its class needs {' and '.join(f'{maker}()' for maker in lacking)}, see "
            f"docs/export.md"
        )
    return task.source_graph(), task.target_graph()


def describe(translator: Translator, info: BundleInfo, sizes: Sizes) -> dict[str, Any]:
    """What a file says of itself, in types of JSON."""
    notes: dict[str, Any] = {
        "name": info.name,
        "task": info.task["name"],
        "generator": info.generator["name"],
        "statistics": info.inference.get("statistics", "image"),
        "scale": [float(factor) for factor in translator.scale],
        "size_multiple": translator.size_multiple,
        "size": list(sizes.size) if sizes.size else None,
        "img2img": version(),
    }
    if translator.palette is not None:
        notes["palette"] = translator.palette.tolist()
    return notes


def _attempts(
    translator: Translator, channels: int, info: BundleInfo, size: tuple[int, int] | None
) -> Iterator[tuple[Sizes, list[Probe]]]:
    """What to try to write, from the most useful on."""
    if size is None:
        crop = info.generator.get("image_size") or CROP
        multiple, least = translator.size_multiple, translator.size_least
        yield Sizes(), make_probes(channels, multiple, least, crop)
        size = (crop, crop)
    for batches in (True, False):
        yield Sizes(size, batches), make_fixed_probes(channels, size, batches=batches)


def _attempt(
    graph: ImageGraph,
    sizes: Sizes,
    probes: Sequence[Probe],
    expected: Sequence[Expected],
    out: Path,
    format: Format,
    notes: dict[str, Any],
) -> float:
    """Write a file and try it; gives the largest difference from the model."""

    def largest(run: Run, tolerance: float) -> float:
        return max(
            compare(run, probe, wanted, graph.target, tolerance=tolerance)
            for probe, wanted in zip(probes, expected, strict=True)
        )

    try:
        largest(as_run(graph), ROUGH)
    except Difference as error:
        raise Difference(
            f"source_graph and target_graph of its task do not do what encode_source and "
            f"decode_target do, or its network mixes the images of a batch: already in torch "
            f"{error}"
        ) from error
    program = trace(graph, probes[0].images.shape[-1], sizes)
    outputs = ["result", "probabilities"] if graph.has_classes else ["result"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial:
        write(program, partial, format, outputs, notes)
        try:
            return largest(open_file(partial, format), TOLERANCE)
        except Difference as error:
            raise Difference(f"under {RUNTIMES[format]} {error}") from error


def _remarks(
    translator: Translator, sizes: Sizes, noisy: bool, failures: Sequence[Exception]
) -> Iterator[str]:
    if failures:
        height, width = sizes.size or (0, 0)
        images = "images" if sizes.batches else "one image at a time"
        yield f"takes {images} of {height}x{width} pixels only: {_reason(failures[0])}"
    if noisy:
        yield "the file has no dropout and gives one answer for an image; infer keeps it on"
    if tuple(translator.scale) != (1.0, 1.0):
        wide, high = translator.scale
        yield (
            f"the model was trained at another scale: multiply the width of images by {wide:.4g} "
            f"and their height by {high:.4g} before, and resize results back"
        )


def _reason(error: Exception) -> str:
    """Why sizes could not be left open."""
    if isinstance(error, torch._dynamo.exc.UserError):
        return "what its network does depends on the size"
    return first_sentence(error, 120)
