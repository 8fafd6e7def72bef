"""What can go wrong, as types the command line knows how to show.

Everything a user can cause derives from `Img2ImgError`; its text is the whole message, and says
the way out. `exit_code` follows the interface: 1 failed while running, 2 the request is wrong,
130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from img2img.names import printable

# Characters of one mistake, which may quote a key of any length.
LONGEST = 2000
# Characters of mistakes that are told one by one; who made more of them begins with these.
MOST = 16_000


class Img2ImgError(Exception):
    """Something failed while running."""

    exit_code = 1


class Note(UserWarning):
    """Something worth knowing that is no cause for worry; the command line prints it as a note."""


class RequestError(Img2ImgError):
    """The request is wrong: usage, output folder, device."""

    exit_code = 2


class RecipeError(RequestError):
    """One or more mistakes in a recipe, each already carrying its file and line."""

    def __init__(self, problems: Sequence[str]) -> None:
        # A line each, whatever keys and texts of a stranger's are in it.
        told: list[str] = []
        room = MOST
        for problem in problems:
            line = _in_a_line(problem)
            room -= len(line)
            if room < 0:
                more = len(problems) - len(told)
                told.append(f"and {more:,} more {'mistake' if more == 1 else 'mistakes'}")
                break
            told.append(line)
        self.problems = tuple(told)
        super().__init__("\n".join(self.problems))


def _in_a_line(problem: str) -> str:
    plain, half = printable(problem), LONGEST // 2
    # Where it is and what is wrong stand at the two ends.
    return plain if len(plain) <= LONGEST else f"{plain[:half]} ... {plain[-half:]}"


class DataError(RequestError):
    """The data a recipe names is missing, empty or does not pair up."""

    def __init__(self, message: str) -> None:
        # Names of strangers' files are in it.
        super().__init__(_in_a_line(message))


class ModelFileError(RequestError):
    """A file given as a model is not a bundle, or cannot be rebuilt here."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        # Files come from strangers with their names; each detail is a line of its own.
        super().__init__("\n".join(printable(line) for line in (message, *details)))

    def __reduce__(self) -> tuple[type[ModelFileError], tuple[str, list[str]]]:
        message, *details = str(self).split("\n")
        return (ModelFileError, (message, details))


class PluginError(RequestError):
    """A plugin that was asked for by name cannot be loaded, or registers something unusable."""


class ImageError(Img2ImgError):
    """One image cannot be read. The rest of a folder can.

    `kind` is `unreadable`, or `size` where the two images of a pair differ in it.
    """

    def __init__(
        self, path: Path, reason: str, kind: Literal["unreadable", "size"] = "unreadable"
    ) -> None:
        self.path = path
        self.reason = reason
        self.kind = kind
        super().__init__(_in_a_line(f"{path}: {reason}"))

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str, str]]:
        # For loader workers: the default would call __init__ with one string.
        return (ImageError, (self.path, self.reason, self.kind))


class MetricError(Img2ImgError):
    """A score cannot be computed here; the text says why, and what to do.

    `short` is what is enough where nobody asked for this very metric; the whole text by default.
    """

    def __init__(self, message: str, short: str | None = None) -> None:
        super().__init__(message)
        self.short = message if short is None else short


class Interrupted(Img2ImgError):
    """Stopped by SIGINT or SIGTERM after the state was saved."""

    exit_code = 130


class SaidElsewhere(Img2ImgError):
    """Another process of the run has said what went wrong; this one ends the same way, silently."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("another process of this run has said why it ended")
