"""What became of each image: counted, reported, and told to whoever watches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from img2img.errors import Img2ImgError
from img2img.inference.planning import Job
from img2img.inference.report import Report, describe_name
from img2img.names import printable
from img2img.picture import Picture, join_alpha

Status = Literal["written", "kept", "skipped"]
OnDone = Callable[[Job, Status, str | None], None]


@dataclass
class Outcome:
    """How many results were written, were there already, and could not be made; and how long.

    Attributes:
        written: images whose results were written.
        kept: images whose results were there already.
        skipped: images that could not be translated.
        seconds: time in the network.
    """

    written: int = 0
    kept: int = 0
    skipped: int = 0
    seconds: float = 0.0


class Recorder:
    """Takes down what became of images, from any thread.

    Args:
        folder: where results go; their names in the report begin there.
        report: gets a line an image, if there is one.
        on_done: called for each image with what became of it, and why if it was skipped.

    Attributes:
        outcome: the counts so far.
    """

    def __init__(self, folder: Path, report: Report | None, on_done: OnDone) -> None:
        self.outcome = Outcome()
        self._folder, self._report, self._on_done = folder, report, on_done
        self._lock = threading.Lock()

    def written(self, job: Job, picture: Picture, seconds: float) -> None:
        """Results are in their files.

        Args:
            job: the image.
            picture: its first result.
            seconds: its share of the time in the network.
        """
        width, height = picture.size
        facts = {"width": width, "height": height, "channels": _channels(picture)}
        depth = picture.dtype.name
        self._add(job, "written", facts | {"depth": depth, "seconds": round(seconds, 6)})

    def kept(self, job: Job) -> None:
        """Results were there already."""
        self._add(job, "kept", {})

    def skipped(self, job: Job, reason: str) -> None:
        """There will be no result."""
        self._add(job, "skipped", {"reason": printable(" ".join(reason.split()))})

    def _add(self, job: Job, status: Status, facts: dict[str, Any]) -> None:
        if self._report is not None:
            line = self._names(job, status) | {"status": status, **dict.fromkeys(FACTS), **facts}
            try:
                self._report.add(line)
            except OSError as error:
                raise Img2ImgError(
                    f"cannot write the report: {error.strerror or error}; once that is mended, "
                    f"the same command goes on from here"
                ) from error
        with self._lock:
            setattr(self.outcome, status, getattr(self.outcome, status) + 1)
            self.outcome.seconds += facts.get("seconds", 0)
            self._on_done(job, status, facts.get("reason"))

    def _names(self, job: Job, status: Status) -> dict[str, Any]:
        names: dict[str, Any] = describe_name("input", job.name)
        if status == "skipped":
            return names | {"output": None}
        made = [path.relative_to(self._folder).as_posix() for path in job.files]
        names |= describe_name("output", made[0])
        if len(made) > 1:
            described = [describe_name("samples", name) for name in made]
            for key in dict.fromkeys(key for one in described for key in one):
                names[key] = [one[key] for one in described]
        return names


def _channels(picture: Picture) -> int:
    """How many channels a picture has with its alpha."""
    alpha = None if picture.alpha is None else picture.alpha[:1, :1]
    # One pixel tells it without a copy of them all.
    corner = join_alpha(replace(picture, pixels=picture.pixels[:1, :1], alpha=alpha))
    return int(corner.pixels.shape[2])


# Keys that every line has, null where there is nothing to say.
FACTS = ("reason", "width", "height", "channels", "depth", "seconds")
