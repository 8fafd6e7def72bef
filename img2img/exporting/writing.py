"""A traced graph as a file: ONNX, or a program of `torch.export`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.fx.experimental._config as fx_config
from torch.export import Dim, ExportedProgram

from img2img.errors import RequestError
from img2img.exporting.graph import ImageGraph

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}

# The oldest that torch's exporter writes without converting, which most runtimes know.
OPSET = 18
# A protobuf holds 2 GiB; the graph itself needs little.
LARGEST = 2_000_000_000
EXTRA_FILE = "img2img.json"


@dataclass(frozen=True)
class Sizes:
    """What a file takes.

    Attributes:
        size: height and width, in pixels; None for any.
        batches: any number of images at once; otherwise one.
    """

    size: tuple[int, int] | None = None
    batches: bool = True

    def shape(self, channels: int) -> str:
        """Of its images, as people write it: `(B, 3, H, W)`."""
        height, width = self.size or ("H", "W")
        return f"({'B' if self.batches else 1}, {channels}, {height}, {width})"


def trace(graph: ImageGraph, channels: int, sizes: Sizes) -> ExportedProgram:
    """A graph as operations on tensors, with sizes left open.

    Raises:
        Exception: whatever torch raises where it cannot.
    """
    # Of one image or one pixel torch would ask whether it may be repeated, and so on, and take its
    # answers for conditions. So everything is traced as two and more; see `_open_ranges`.
    batch = Dim("batch", min=2)
    height, width = (Dim(name, min=graph.multiple + 1) for name in ("height", "width"))
    open_axes: dict[int, Any] = {0: batch} if sizes.batches else {}
    if sizes.size is None:
        open_axes |= {2: height, 3: width}
    side = max(graph.multiple, graph.least, 16)
    # Sides that need padding, and are no multiple of one another.
    example = torch.rand(
        2 if sizes.batches else 1, channels, *(sizes.size or (side + side // 2 + 5, 2 * side + 3))
    )
    with quiet(), oblivious(), torch.no_grad():
        program = torch.export.export(
            graph.eval(), (example,), dynamic_shapes={"image": open_axes}, strict=False
        )
    _open_ranges(program)
    for node in program.graph.nodes:
        # Where on this machine each line of code lies.
        node.meta.pop("stack_trace", None)
    return program


def _open_ranges(program: ExportedProgram) -> None:
    """Let a program take single images, and images of a single multiple, which its operations do.

    An ONNX file never checks sizes; whether either kind of file is right for them, its trial shows.
    """
    ranges = program.range_constraints
    for symbol, found in ranges.items():
        ranges[symbol] = type(found)(1, found.upper)


def write(
    program: ExportedProgram,
    path: Path,
    format: Format,
    outputs: list[str],
    notes: Mapping[str, Any],
) -> None:
    """Write a program to a file.

    Args:
        program: from `trace`.
        path: the file; what is there is replaced.
        format: which kind of file.
        outputs: names of what it gives.
        notes: what the file says of itself, as JSON can hold it.

    Raises:
        Exception: whatever torch raises for what ONNX lacks.
        OSError: the file cannot be written.
    """
    if format == "torch":
        with quiet():
            torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(notes)})
        return
    _write_onnx(program, path, outputs, notes)


def _write_onnx(
    program: ExportedProgram, path: Path, outputs: list[str], notes: Mapping[str, Any]
) -> None:
    import onnx

    with quiet(), torch.no_grad():
        made = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert made is not None
    model = made.model_proto
    # Shapes in between and what each operation was made from: for debugging the exporter alone.
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:]
    (image,) = model.graph.input
    names: dict[str, str] = {}
    for dim, name in zip(image.type.tensor_type.shape.dim, AXES, strict=True):
        if dim.dim_param:
            names[dim.dim_param] = name
    for value in (image, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
    onnx.helper.set_model_props(
        model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in notes.items()}
    )
    onnx.save(model, path)


AXES = ("batch", "channels", "height", "width")


def check_size(graph: ImageGraph, format: Format) -> None:
    """Raise a RequestError where weights are more than a single file of the format can hold."""
    held = [*graph.parameters(), *graph.buffers()]
    total = sum(tensor.numel() * tensor.element_size() for tensor in held)
    if format == "onnx" and total > LARGEST:
        raise RequestError(
            f"the model's weights are {total / 1e9:.1f} GB, and one ONNX file holds 2 GB: use "
            f"--format torch"
        )


@contextlib.contextmanager
def oblivious() -> Iterator[None]:
    """Torch asks less of sizes where its answer does not depend on whether they are 1.

    Older versions cannot trace a group norm of open sizes otherwise; where a version lacks the
    setting, nothing is changed.
    """
    name = "backed_size_oblivious"
    before = getattr(fx_config, name, None)
    if before is None:
        yield
        return
    setattr(fx_config, name, True)
    try:
        yield
    finally:
        setattr(fx_config, name, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What libraries say to their developers is not printed: stdout, stderr, logs and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
