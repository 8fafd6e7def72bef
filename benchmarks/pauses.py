"""Times for how long steps stand still for what a run writes, and what is written beside them.

The steps cost nothing: what is measured is everything else. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from record import add_record_option, measure, record
from torch import Tensor

import img2img
from img2img.bench.hardware import device_name, wait_for
from img2img.engine.records import Records
from img2img.engine.writing import Writer
from img2img.inference import Translator
from img2img.methods import Pix2Pix

RECIPE = "facades"
# Every so many steps, so that each is done at steps of its own, but for the last.
SHEETS, SCORES, SAVES = 7, 11, 13
KINDS = {
    "sheet": "a sheet of samples",
    "scores": "a validation",
    "checkpoint": "a checkpoint, the model and the report",
    "log": "a log line",
    "events": "plugins and TensorBoard, told of a file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the arguments say, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="facades")
    parser.add_argument("--size", type=int, default=256, help="of the crops, in pixels")
    parser.add_argument("--width", type=int, default=64, help="channels after the first layers")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_record_option(parser)
    options = parser.parse_args(arguments)
    for name in ("size", "width", "rounds"):
        if (value := getattr(options, name)) < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    measure(parser, options, "pauses", benchmark, keep)


def benchmark(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What `main` prints."""
    clock = Clock(device)
    sets = {
        "data.root": str(options.data.absolute()),
        "data.crop_size": options.size,
        "generator.width": options.width,
        "discriminator.width": options.width,
        "train.steps": SAVES * (options.rounds + 1),
        "train.sample_every": SHEETS,
        "train.validate_every": SCORES,
        "train.checkpoint_every": SAVES,
        "train.log_every": 5,
    }
    with tempfile.TemporaryDirectory() as work, clock.watching():
        img2img.train(RECIPE, overrides=sets, out=Path(work, "run"), device=str(device))
    return {
        "kinds": {name: clock.told(name, options.rounds) for name in KINDS},
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": {name: getattr(options, name) for name in ("size", "width", "rounds")},
    }


class Clock:
    """Seconds by kind: that steps waited, of these in the generator, and that were spent beside.

    Args:
        device: where runs train.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.waited: dict[str, list[float]] = defaultdict(list)
        self.network: dict[str, list[float]] = defaultdict(list)
        self.beside: dict[str, list[float]] = defaultdict(list)
        self._kind: str | None = None
        self._follows: str | None = None
        self._in_network = 0.0

    def told(self, kind: str, rounds: int) -> dict[str, float | None]:
        """Medians of the rounds before the last step, which does all at once."""

        def median(taken: list[float]) -> float | None:
            return statistics.median(taken[:rounds]) if taken else None

        return {
            "waited_s": median(self.waited[kind]),
            "network_s": median(self.network[kind]),
            "beside_s": median(self.beside[kind]),
        }

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Runs are timed; their steps after the first give its losses and do nothing else."""
        losses: dict[str, Tensor] = {}
        step, submit = Pix2Pix.step, Writer.submit

        def nothing(method: Pix2Pix, source: Tensor, target: Tensor) -> dict[str, Tensor]:
            if not losses:
                losses.update(step(method, source, target))
            return losses

        def submitted(
            writer: Writer,
            job: Callable[[], None],
            then: Callable[[], None] | None = None,
            **options: bool,
        ) -> None:
            kind, first = self._follows or self._kind or "sheet", self._follows is None

            def timed() -> None:
                began = time.perf_counter()
                job()
                taken = time.perf_counter() - began
                if first:
                    self.beside[kind].append(taken)
                else:  # of a checkpoint, what is done once it has its name
                    self.beside[kind][-1] += taken

            def followed() -> None:
                assert then is not None
                self._follows = kind
                self._timed("events", then)()
                self._follows = None

            submit(writer, timed, then and followed, **options)

        def settled(kind: str, call: Callable[..., None]) -> Callable[..., None]:
            def after_all_is_written(records: Records, **what: bool) -> None:
                # As it is after steps that take their time.
                records._writer.wait()
                timed = self._timed("scores" if what.get("score") else kind, call)
                timed(records, **what)

            return after_all_is_written

        translate = Translator.translate

        def translated(translator: Translator, images: Tensor) -> Tensor:
            began = time.perf_counter()
            output = translate(translator, images)
            # Or a GPU would do it in the time of whatever asks for the output.
            wait_for(self._device)
            self._in_network += time.perf_counter() - began
            return output

        with contextlib.ExitStack() as patches:
            for owner, name, instead in (
                (Pix2Pix, "step", nothing),
                (Writer, "submit", submitted),
                (Records, "look", settled("sheet", Records.look)),
                (Records, "save", settled("checkpoint", Records.save)),
                (Records, "log", self._timed("log", Records.log)),
                (Translator, "translate", translated),
            ):
                patches.enter_context(patch.object(owner, name, instead))
            yield

    def _timed(self, kind: str, call: Callable[..., None]) -> Callable[..., None]:
        def timed(*arguments: Any, **options: Any) -> None:
            outer, self._kind, self._in_network = self._kind, kind, 0.0
            began = time.perf_counter()
            call(*arguments, **options)
            self.waited[kind].append(time.perf_counter() - began - self._in_network)
            self.network[kind].append(self._in_network)
            self._kind = outer

        return timed


def keep(page: Path, result: dict[str, Any], device: torch.device) -> None:
    """Write the outcome into the page of performance."""
    rows = []
    for name, text in KINDS.items():
        told = result["kinds"][name]
        cells = [told["waited_s"], told["network_s"], told["beside_s"]]
        rows.append([text, *("" if cell is None else 1000 * cell for cell in cells)])
    settings = result["settings"]
    note = (
        f"{settings['size']} pixels, width {settings['width']}, the median of {settings['rounds']}."
    )
    headings = ["for", "steps wait, ms", "and in the generator, ms", "done beside them, ms"]
    record(page, "pauses", device, headings, rows, note)


if __name__ == "__main__":
    main()
