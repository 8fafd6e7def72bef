"""Which file becomes which: every rule about names, before anything is written."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from img2img.errors import RequestError
from img2img.inference.naming import SAMPLE, WRITABLE, Naming, same_format, split_suffix
from img2img.inference.walking import Found, is_file, is_result, walk_images
from img2img.names import printable


@dataclass(frozen=True)
class Job:
    """One image to translate.

    Attributes:
        source: the file.
        name: the same from INPUT on, parts joined by `/`; the file's own where INPUT is a file.
        files: where the results go: one; or the samples, their mean and their spread.
        problem: why it cannot be translated, if that is known without opening it.
    """

    source: Path
    name: str
    files: tuple[Path, ...]
    problem: str | None = None


@dataclass(frozen=True)
class Share:
    """The part of the files that one of several workers takes, told by nothing but their names.

    Attributes:
        rank: which worker, from 0 on.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def takes(self, name: str) -> bool:
        """Whether this worker translates the file of this name."""
        return self.size == 1 or zlib.crc32(os.fsencode(name)) % self.size == self.rank


class Plan:
    """What a request comes to: a file to a file or into a folder, a folder to a folder like it.

    Args:
        source: a file, or a folder that is searched through.
        output: a folder; or a file, when `source` is one and this has an image's suffix.
        naming: how results are called.

    Attributes:
        single: `source` is a file.
        folder: where all results go, in it or below.

    Raises:
        RequestError: there is no such source, the output cannot be written, or it has a format
            that cannot hold the results.
    """

    def __init__(self, source: Path, output: Path, naming: Naming) -> None:
        self.source, self.naming = source, naming
        for path in (source, output):
            _check_name(path)
        if naming.suffix is not None:
            naming.check(naming.suffix, f"--format {naming.suffix[1:]}")
        self.single = source.is_file()
        if self.single:
            self._target = self._single_target(output)
            self.folder = self._target.parent
        elif source.is_dir():
            if output.is_file():
                raise RequestError(
                    f"{printable(output)} is a file; the results of a folder need a folder"
                )
            if os.path.realpath(output) == os.path.realpath(source):
                raise RequestError(
                    "input and output are the same folder; give the results their own"
                )
            self.folder = output
        elif source.exists():
            raise RequestError(f"{printable(source)} is neither a file nor a folder")
        else:
            raise RequestError(f"there is no file or folder {printable(source)}")
        _check_writable(self.folder)

    def jobs(self, share: Share = Share()) -> Iterator[Job]:
        """The images one by one, in the order the system lists them.

        Args:
            share: the part that is wanted.

        Raises:
            RequestError: INPUT cannot be listed.
        """
        for found in self._found():
            if share.takes(found.name):
                yield self._job(found)

    def survey(self, share: Share = Share(), *, overwrite: bool) -> int:
        """Look at all names once, and count the images of a share.

        Args:
            share: what is counted; names are looked at all the same.
            overwrite: existing results will be replaced.

        Raises:
            RequestError: there are no images, or results would collide with each other or with
                inputs; or the one result there would be is already there.
        """
        count = total = 0
        suffixes: set[str] = set()
        within = None if self.single else _inside(self.source, self.folder)
        for found in self._found():
            total += 1
            count += share.takes(found.name)
            suffixes.add(split_suffix(found.name)[1])
            if within is not None and self.naming.rename(found.name).startswith(f"{within}/"):
                raise RequestError(
                    f"the result of {printable(found.path)} would land among the inputs; choose "
                    f"an output folder that {printable(self.source)} does not lie in"
                )
        if not total:
            raise RequestError(f"no images below {printable(self.source)}")
        if self.single:
            self._check_single(overwrite)
        else:
            self._check_collisions(suffixes)
        return count

    def _job(self, found: Found) -> Job:
        output = self._target if self.single else self.folder / self.naming.rename(found.name)
        return Job(found.path, found.name, self.naming.files(output), found.problem)

    def _found(self) -> Iterator[Found]:
        if self.single:
            yield Found(self.source, self.source.name)
            return
        try:
            yield from walk_images(self.source, without=_inside(self.folder, self.source))
        except OSError as error:
            raise RequestError(
                f"{printable(self.source)} cannot be listed: {error.strerror or error}"
            ) from error

    def _single_target(self, output: Path) -> Path:
        naming = self.naming
        is_folder = output.is_dir()
        names_file = output.suffix.lower() in WRITABLE and not is_folder
        if not names_file and not is_folder and output.suffix[1:].isalpha():
            raise RequestError(
                f"images cannot be written as {output.suffix}: end the output in one of "
                f"{', '.join(sorted(WRITABLE))}, or name a folder"
            )
        if not names_file:
            return output / naming.rename(self.source.name)
        naming.check(output.suffix, output.suffix)
        if naming.suffix and not same_format(output.suffix, naming.suffix):
            raise RequestError(
                f"the output {printable(output)} and --format {naming.suffix[1:]} disagree"
            )
        return output

    def _check_single(self, overwrite: bool) -> None:
        files = self.naming.files(self._target)
        if all(map(is_result, files)) and not overwrite:
            raise RequestError(
                f"{printable(files[0])} is already there; use --overwrite to replace it"
            )
        if any(os.path.realpath(path) == os.path.realpath(self.source) for path in files):
            raise RequestError(f"the result would replace the input {printable(self.source)}")

    def _check_collisions(self, suffixes: set[str]) -> None:
        """Whether two inputs have one result, which takes two suffixes of one format.

        Only the suffixes are held that occur; whether there is such a sibling the system knows.
        """
        alike: dict[str, set[str]] = {}
        for suffix in suffixes:
            alike.setdefault(self.naming.rename(f"a{suffix}"), set()).add(suffix)
        rivals = {one: group - {one} for group in alike.values() for one in group}
        if not self.naming.samples and not any(rivals.values()):
            return
        for found in self._found():
            stem, suffix = split_suffix(str(found.path))
            self._refuse(found, [stem + other for other in rivals.get(suffix, ())], "both become")
            match = SAMPLE.fullmatch(stem)
            if match and self._names_sample(match[2]):
                # The result of this one in a run without samples is called like one of the other's.
                origins = [match[1] + other for other in (suffix, *rivals.get(suffix, ()))]
                self._refuse(found, origins, "both have")

    def _names_sample(self, kind: str) -> bool:
        return kind in self.naming.extras or (kind.isdigit() and int(kind) <= self.naming.samples)

    def _refuse(self, found: Found, siblings: Sequence[str], would: str) -> None:
        for sibling in siblings:
            if is_file(Path(sibling)):
                output = self.folder / self.naming.rename(found.name)
                raise RequestError(
                    f"{printable(sibling)} and {printable(found.path)} would {would} "
                    f"{printable(output)}; rename one"
                )


def _inside(path: Path, folder: Path) -> str | None:
    """A path as its name from a folder on; None where it does not lie below it."""
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return real.relative_to(root).as_posix() if root in real.parents else None


def _check_name(path: Path) -> None:
    """Refuse what no question about a file can be asked of, such as too long a name."""
    try:
        path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{printable(path)}: {reason}") from None


def _check_writable(folder: Path) -> None:
    """Find out without writing whether a folder can be made and written to."""
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    reason = None
    if not there.is_dir():
        reason = "Not a directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = "Permission denied"
    if reason is not None:
        raise RequestError(f"cannot write {printable(folder)}: {reason}")
