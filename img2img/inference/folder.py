"""Translating the files of a plan: reading, the network and writing side by side."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage

from img2img.data.reading import decoded_bytes, read_picture
from img2img.data.side_by_side import split_halves
from img2img.data.writing import write_picture
from img2img.errors import ImageError, Img2ImgError
from img2img.inference.destination import Destination
from img2img.inference.pipeline import WriteBehind, batches, read_ahead
from img2img.inference.planning import Job, Plan, Share
from img2img.inference.recording import OnDone, Outcome, Recorder
from img2img.inference.report import Report
from img2img.inference.spread import picture_of_spread
from img2img.inference.translator import Translator
from img2img.inference.walking import is_result
from img2img.names import printable
from img2img.picture import Picture

Half = Literal["left", "right"]
Palette = NDArray[np.uint8] | None
# The files of one image: pictures, and the colours of their classes.
Results = list[tuple[Picture, Palette]]
# What came of reading: a picture, why there is none, or None where results are there already.
Loaded = Picture | str | None

MEGA = 1 << 20
# Bounds on what is held, in pixels of 8-bit RGB, which take three bytes: read ahead, waiting for
# others of its size, and waiting to be written. A single picture may be larger.
AHEAD, TOGETHER, BEHIND = 32 * MEGA, 32 * MEGA, 64 * MEGA
# Pictures that wait for others of their size.
WAITING = 256
# torch has a type of its own for this on GPUs, and only words on the CPU; OpenCV has others.
FULL_MEMORY = ("out of memory", "allocate memory", "enough memory", "insufficient memory")
# Words of faults after which nothing works on a GPU any more.
ACCELERATOR = ("cuda", "cudnn", "cublas", "cufft", "nccl", "hip error", "device-side")
# As many images that fail alike, before any that does not, are not to blame.
ALL_FAIL = 10
# Small images in a batch: beyond that nothing is gained.
LARGEST_BATCH = 64


def translate_files(
    translator: Translator,
    plan: Plan,
    *,
    share: Share = Share(),
    batch_size: int | None = None,
    half: Half | None = None,
    overwrite: bool = False,
    threads: int = 1,
    report: Report | None = None,
    on_done: OnDone = lambda job, status, reason: None,
) -> Outcome:
    """Translate the images of a plan; one that cannot be is reported, and the rest goes on.

    Each result appears whole, or not at all, and those that are there are not made again. So what
    was interrupted goes on with the same call. Memory does not depend on the number of files.

    Args:
        translator: the model.
        plan: which files, and where to.
        share: the part of them to translate.
        batch_size: images of one size that go through the network together; None leaves it to
            the translator. Results do not depend on it.
        half: take this half of side-by-side files.
        overwrite: translate again what is already there.
        threads: that read, and as many that write.
        report: gets a line an image.
        on_done: called for each image with what became of it, and why if it was skipped; from any
            thread, one call at a time.

    Raises:
        Img2ImgError: no file can be written any more, on a full disk for example; or the network
            fails on every image.
    """
    # By default 16 MB, which the C library keeps for each thread instead of giving it back: with
    # eight threads, images of 12,000 x 9,000 pixels took twice as much memory.
    core = PillowImage.core  # type: ignore[attr-defined]  # else only an environment variable can
    core.set_block_size(64 * MEGA)
    recorder = Recorder(plan.folder, report, on_done)
    work = _Work(translator, plan, recorder, batch_size, half, overwrite)
    # One batch is read and one written while another is in the network.
    count = 2 * max(LARGEST_BATCH, batch_size or 0)
    ahead = read_ahead(plan.jobs(share), work.begin, threads=threads, count=count, weight=AHEAD)
    with closing(ahead), WriteBehind(threads=threads, count=count, weight=BEHIND) as behind:
        pictures = work.pictures(ahead)
        for batch in batches(
            pictures, _kind, work.most, _weight, count=max(WAITING, count), weight=TOGETHER
        ):
            for job, results, seconds in work.translate(batch):
                weight = sum(_bytes(picture) for picture, _ in results) // 3
                behind.submit(weight, partial(work.write, job, results, seconds))
    return recorder.outcome


class _Work:
    """What is done with each image, in the order of the methods."""

    def __init__(
        self,
        translator: Translator,
        plan: Plan,
        recorder: Recorder,
        batch_size: int | None,
        half: Half | None,
        overwrite: bool,
    ) -> None:
        self.translator, self.recorder = translator, recorder
        self.naming = plan.naming
        self.destination = Destination(plan.folder, plan.source)
        self.batch_size, self.half, self.overwrite = batch_size, half, overwrite
        # Whether the network has taken an image, and until then how many failed alike, and how.
        self.works, self.alike, self.failure = False, 0, ""

    def begin(self, job: Job) -> tuple[int, Callable[[], Loaded]]:
        """How heavy an image will be, and what reads it. In any thread."""
        problem = job.problem or self.destination.problem(job.files[0].parent)
        if problem is not None:
            return 0, lambda: problem
        if not self.overwrite and all(map(is_result, job.files)):
            return 0, lambda: None
        try:
            weight = max(1, decoded_bytes(job.source) // 3)
        except (ImageError, OSError):
            # Reading it will say more. Until then nobody knows, so it comes in alone.
            weight = AHEAD
        return weight, partial(self._read, job.source)

    def _read(self, path: Path) -> Loaded:
        try:
            picture = read_picture(path, self.translator.image_channels[0])
            return picture if self.half is None else _half(picture, path, self.half)
        except ImageError as error:
            return error.reason

    def pictures(self, loaded: Iterable[tuple[Job, Loaded]]) -> Iterator[tuple[Job, Picture]]:
        """The images that there is something to do for."""
        for job, picture in loaded:
            if picture is None:
                self.recorder.kept(job)
            elif isinstance(picture, str):
                self.recorder.skipped(job, picture)
            else:
                yield job, picture

    def most(self, item: tuple[Job, Picture]) -> int:
        """How many images like this go through the network together."""
        size = item[1].size
        if self.naming.samples or self.translator.is_large(size):
            return 1
        return self.batch_size or min(self.translator.batch_size(size), LARGEST_BATCH)

    def translate(self, batch: list[tuple[Job, Picture]]) -> list[tuple[Job, Results, float]]:
        """Results of a batch, with the time that each took; what fails is skipped.

        Raises:
            Img2ImgError: all images fail.
        """
        started = time.perf_counter()
        reason = None
        try:
            results = self._results(batch)
        except (MemoryError, RuntimeError, ValueError, cv2.error) as error:
            reason = _memory_reason(error, batch[0][1])
            if reason is None:
                if _is_fault(error):
                    raise
                reason = _words(error)
                if len(batch) == 1:
                    self._count_failure(reason, error)
        if reason is None:
            self.works = True
            seconds = (time.perf_counter() - started) / len(batch)
            return [(job, made, seconds) for (job, _), made in zip(batch, results, strict=True)]
        if self.translator.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            self.recorder.skipped(batch[0][0], reason)
            return []
        # It may be one of them, or be too many of them.
        return [result for one in batch for result in self.translate([one])]

    def _count_failure(self, reason: str, error: Exception) -> None:
        # Errors name sizes, which differ.
        failure = re.sub("[0-9]+", "", reason)
        self.alike = self.alike + 1 if failure == self.failure else 1
        self.failure = failure
        if self.alike >= ALL_FAIL and not self.works:
            raise Img2ImgError(
                f"the network fails on every image, {self.alike} so far: {reason}; is it "
                f"made for such images? --debug shows where"
            ) from error

    def _results(self, batch: list[tuple[Job, Picture]]) -> list[Results]:
        palette = self.translator.palette
        if not self.naming.samples:
            made = self.translator.translate_pictures([picture for _, picture in batch])
            return [[(picture, palette)] for picture in made]
        return [self._samples(*item) for item in batch]

    def _samples(self, job: Job, picture: Picture) -> Results:
        palette = self.translator.palette
        samples = self.translator.sample(picture, self.naming.samples)
        results: Results = [(made, palette) for made in samples.pictures]
        # In the order of `Naming.extras`, as the files are.
        for extra, path in zip(self.naming.extras, job.files[len(results) :], strict=True):
            if extra == "mean":
                results.append((samples.mean, palette))
            else:
                results.append((picture_of_spread(samples.spread, path.suffix), None))
        return results

    def write(self, job: Job, results: Results, seconds: float) -> None:
        """Write the files of an image. In any thread."""
        for path, (picture, palette) in zip(job.files, results, strict=True):
            try:
                self.destination.prepare(path.parent)
                if self.naming.samples and path == job.files[0]:
                    # While the last one lacks they are made again, so that a killed run leaves no
                    # mean beside samples that it was not made of.
                    job.files[-1].unlink(missing_ok=True)
                write_picture(path, picture, palette)
            except OSError as error:
                ends = self.destination.error(path, error)
                if ends is not None:
                    raise ends from error
                reason = f"cannot write {printable(path)}: {error.strerror or error}"
                self.recorder.skipped(job, reason)
                return
            except (ValueError, MemoryError) as error:
                self.recorder.skipped(job, str(error) or "out of memory while it was written")
                return
        self.recorder.written(job, results[0][0], seconds)


def _half(picture: Picture, path: Path, half: Half) -> Picture:
    def take(pixels: NDArray[Any]) -> NDArray[Any]:
        return split_halves(pixels, path)[0 if half == "left" else 1]

    alpha = None if picture.alpha is None else take(picture.alpha)
    return replace(picture, pixels=take(picture.pixels), alpha=alpha)


def _kind(item: tuple[Job, Picture]) -> object:
    pixels = item[1].pixels
    return pixels.shape, pixels.dtype


def _weight(item: tuple[Job, Picture]) -> int:
    return _bytes(item[1]) // 3


def _bytes(picture: Picture) -> int:
    return picture.pixels.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)


def _memory_reason(error: Exception, picture: Picture) -> str | None:
    """What to say of an image that memory does not suffice for; None for other errors."""
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in FULL_MEMORY):
        width, height = picture.size
        return (
            f"out of memory at {width} x {height} pixels; a smaller --tile, such as 512, or "
            f"--device cpu takes less"
        )
    return None


def _is_fault(error: Exception) -> bool:
    """Whether the fault is the accelerator's, and the next image would meet it as well."""
    return any(words in str(error).lower() for words in ACCELERATOR)


def _words(error: Exception) -> str:
    """What an error of the network says, without the trace that torch may hang on it."""
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"the network fails: {text.splitlines()[0]}"
