"""Runs an exported file as its users will, and compares what it gives with what the model gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from img2img.exporting.expected import Expected
from img2img.exporting.probes import Probe
from img2img.exporting.writing import Format, quiet

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""Images (B, C, H, W) in [0, 1] to `result`, and to `probabilities` where there are classes."""

# Of a file from the model, in the [0, 1] of images and probabilities.
TOLERANCE = 1e-4
# Of what is traced, still in torch: more is no rounding, but another computation.
ROUGH = 1e-3
# What rounding to 8-bit levels may add, for tasks whose decoded images are such.
ROUNDING = 0.5 / 255

RUNTIMES: dict[Format, str] = {"onnx": "ONNX Runtime", "torch": "torch.export"}


class Difference(Exception):
    """What gives another result than the model; the text says by how much and where."""


def open_file(path: Path, format: Format) -> Run:
    """An exported file as something to call, on the CPU.

    Raises:
        Exception: whatever its runtime raises for a file that it cannot run.
    """
    if format == "torch":
        with quiet():
            module = torch.export.load(path).module()
        return as_run(module)
    import onnxruntime  # type: ignore[import-untyped]  # it carries no types

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = session.run(None, {"image": images.numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)

    return run


def as_run(module: nn.Module) -> Run:
    """A module as something to call that always gives a tuple."""

    def run(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            outputs = module(images)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    return run


def compare(
    run: Run,
    probe: Probe,
    expected: Expected,
    target: nn.Module,
    *,
    tolerance: float = TOLERANCE,
) -> float:
    """The largest difference of a run's outputs from the model's.

    Where outputs are classes, it is that of the probabilities, and the colours must be those of the
    class that the run itself finds likeliest: between two equal ones rounding decides.

    Args:
        run: what is tried.
        probe: the images.
        expected: what the model gives for them.
        target: the task's way from the network's output to images.
        tolerance: the largest difference that is allowed.

    Raises:
        Difference: it is larger.
    """
    result, *probabilities = run(probe.tensor)
    if probabilities:
        largest = _differ(probabilities[0], expected.output, "probabilities", probe, tolerance)
        with torch.no_grad():
            shown = target(probabilities[0], probe.tensor)
        _differ(result, shown, "colours of the classes", probe, TOLERANCE)
        return largest
    with torch.no_grad():
        wanted = target(expected.output, probe.tensor)
    largest = _differ(result, wanted, "result", probe, tolerance)
    slack = tolerance if expected.exact else tolerance + ROUNDING
    found = _differ(result, expected.images, "result", probe, slack)
    return max(largest, found) if expected.exact else largest


def _differ(found: Tensor, wanted: Tensor, what: str, probe: Probe, allowed: float) -> float:
    height, width = probe.images.shape[1:3]
    where = f"{probe.name} of {height}x{width} pixels"
    if found.shape != wanted.shape:
        raise Difference(f"its {what} of {where} has shape {_shape(found)}, not {_shape(wanted)}")
    apart = (found.float() - wanted.float()).abs()
    # What is no number is as far away as can be.
    apart = torch.where(apart.isnan(), torch.full_like(apart, float("inf")), apart)
    largest = float(apart.max())
    if largest > allowed:
        place = [int(i) for i in torch.unravel_index(apart.argmax(), apart.shape)]
        raise Difference(
            f"its {what} of {where} differs by up to {largest:.2g}, and {allowed:.2g} is allowed "
            f"(row {place[2]}, column {place[3]}, channel {place[1]})"
        )
    return largest


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape)
