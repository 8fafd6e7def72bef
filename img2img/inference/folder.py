"""Translate a file or a folder of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

from img2img.data.images import Image, find_images, read_image, write_image
from img2img.data.side_by_side import split_halves
from img2img.errors import ImageError, RequestError
from img2img.inference.translator import Translator

WRITABLE = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})
# What can hold class indices with their palette.
INDEXED = frozenset({".png", ".tif", ".tiff"})
Half = Literal["left", "right"]


@dataclass(frozen=True)
class Job:
    """One file to translate and where the result goes."""

    source: Path
    output: Path


@dataclass
class Outcome:
    """What became of a folder: results written, results already there, and what failed and why."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def plan_jobs(
    source: Path, output: Path, suffix: str | None, *, overwrite: bool, indexed: bool = False
) -> list[Job]:
    """Which file goes where: a file to a file or into a folder, a folder to a folder like it.

    Args:
        source: a file, or a folder that is searched through.
        output: a folder; or a file, when `source` is one and this has an image suffix.
        suffix: of every output, such as `.png`; None keeps each input's own if it can be written.
        overwrite: existing outputs will be replaced.
        indexed: outputs are class indices, so formats without a palette are refused, and inputs in
            them become `.png`.

    Raises:
        RequestError: nothing to do, an output format that cannot be, or outputs that would collide
            with each other or with inputs.
    """
    writable = INDEXED if indexed else WRITABLE
    if indexed and suffix is not None and suffix.lower() not in INDEXED:
        raise RequestError(
            f"this model gives classes, and --format {suffix[1:]} cannot hold them exactly: use "
            f"--format png or tiff, or leave it out"
        )
    if source.is_file():
        names_file = output.suffix.lower() in WRITABLE and not output.is_dir()
        if not names_file and not output.is_dir() and output.suffix[1:].isalpha():
            raise RequestError(
                f"images cannot be written as {output.suffix}: end the output in one of "
                f"{', '.join(sorted(WRITABLE))}, or name a folder"
            )
        if names_file and output.suffix.lower() not in writable:
            raise RequestError(
                f"this model gives classes, and {output.suffix} cannot hold them exactly: end the "
                f"output in .png or .tiff"
            )
        if names_file and suffix and not _same_format(output.suffix, suffix):
            raise RequestError(f"the output {output} and --format {suffix[1:]} disagree")
        target = output if names_file else output / _rename(Path(source.name), suffix, writable)
        jobs = [Job(source, target)]
        if target.exists() and not overwrite:
            raise RequestError(f"{target} is already there; use --overwrite to replace it")
    elif source.is_dir():
        if output.is_file():
            raise RequestError(f"{output} is a file; the results of a folder need a folder")
        inside = output.resolve()
        found = [f for f in find_images(source) if inside not in f.resolve().parents]
        if inside == source.resolve():
            raise RequestError("input and output are the same folder; give the results their own")
        if not found:
            raise RequestError(f"no images below {source}")
        jobs = [Job(f, output / _rename(f.relative_to(source), suffix, writable)) for f in found]
    else:
        raise RequestError(f"there is no file or folder {source}")
    taken: dict[Path, Path] = {}
    for job in jobs:
        if job.output in taken:
            raise RequestError(
                f"{taken[job.output]} and {job.source} would both become {job.output}; rename one"
            )
        taken[job.output] = job.source
        if job.output.resolve() == job.source.resolve():
            raise RequestError(f"the result would replace the input {job.source}")
    return jobs


def translate_files(
    translator: Translator,
    jobs: list[Job],
    *,
    batch_size: int = 1,
    half: Half | None = None,
    overwrite: bool = False,
    on_done: Callable[[Job, str | None], None] = lambda job, problem: None,
) -> Outcome:
    """Translate every job; a file that cannot be read is reported and the rest goes on.

    Args:
        translator: the model.
        jobs: from `plan_jobs`.
        batch_size: how many images of one size go through the network together.
        half: take this half of side-by-side files.
        overwrite: translate again what is already there.
        on_done: called for each job with None, or with what was wrong.

    Raises:
        RequestError: the output folder cannot be written to.
    """
    outcome = Outcome()
    waiting = []
    for job in jobs:
        if job.output.exists() and not overwrite:
            outcome.kept.append(job.output)
            on_done(job, None)
        else:
            waiting.append(job)
    for group in _loaded(waiting, half, batch_size):
        good = [(job, image) for job, image in group if not isinstance(image, ImageError)]
        for job, image in group:
            if isinstance(image, ImageError):
                outcome.failed[job.source] = image.reason
                on_done(job, image.reason)
        if not good:
            continue
        results = translator.translate_images([image for _, image in good])
        for (job, _), result in zip(good, results, strict=True):
            try:
                job.output.parent.mkdir(parents=True, exist_ok=True)
                write_image(job.output, result, translator.palette)
            except OSError as error:
                raise RequestError(
                    f"cannot write {job.output}: {error.strerror or error}"
                ) from error
            outcome.written.append(job.output)
            on_done(job, None)
    return outcome


def _loaded(
    jobs: list[Job], half: Half | None, batch_size: int
) -> Iterator[list[tuple[Job, Image | ImageError]]]:
    """Batches of images of one size, in order; the next ones are decoded meanwhile."""

    def load(job: Job) -> Image | ImageError:
        try:
            image = read_image(job.source)
            if half is None:
                return image
            return split_halves(image, job.source)[0 if half == "left" else 1]
        except ImageError as error:
            return error

    def shape(item: tuple[Job, Image | ImageError]) -> object:
        return None if isinstance(item[1], ImageError) else item[1].shape

    with ThreadPoolExecutor(max_workers=2) as pool:
        chunks = [jobs[i : i + batch_size] for i in range(0, len(jobs), batch_size)]
        ahead = [[pool.submit(load, job) for job in chunk] for chunk in chunks[:2]]
        for i, chunk in enumerate(chunks):
            if i + 2 < len(chunks):
                ahead.append([pool.submit(load, job) for job in chunks[i + 2]])
            loaded = [(job, task.result()) for job, task in zip(chunk, ahead.pop(0), strict=True)]
            for _, group in groupby(loaded, key=shape):
                yield list(group)


def _rename(path: Path, suffix: str | None, writable: frozenset[str]) -> Path:
    if suffix is None:
        return path if path.suffix.lower() in writable else path.with_suffix(".png")
    return path if _same_format(path.suffix, suffix) else path.with_suffix(suffix)


def _same_format(one: str, other: str) -> bool:
    same = {".jpeg": ".jpg", ".tif": ".tiff"}
    one, other = one.lower(), other.lower()
    return same.get(one, one) == same.get(other, other)
