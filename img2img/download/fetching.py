"""From a name to a folder that can be trained on, or to a message that says what to do."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from img2img.download.archive import BadArchiveError, unpack
from img2img.download.catalog import DataSet
from img2img.download.connection import check_url
from img2img.download.contents import check_contents, count_images, find_root
from img2img.download.lock import locked
from img2img.download.partial import Partial, size_text
from img2img.download.transfer import Transfer, Watcher
from img2img.errors import DataError, Img2ImgError, Interrupted, RequestError
from img2img.names import printable

# In a data set's folder: it was fetched, and is whole.
MARK = ".img2img.json"
# File systems round each file up.
UNPACKED_SHARE = 1.1


@dataclass(frozen=True)
class Fetched:
    """A data set that is there.

    Attributes:
        name: the data set's.
        folder: where it is, as it was asked for.
        pairs: how many there are in each folder.
        url: where it came from.
        bytes: of the archive.
        sha256: of the archive.
        already: nothing had to be done.
    """

    name: str
    folder: Path
    pairs: dict[str, int]
    url: str
    bytes: int
    sha256: str
    already: bool


def fetch(
    data: DataSet,
    folder: Path,
    *,
    url: str | None = None,
    replace: bool = False,
    timeout: float = 30.0,
    watch: Watcher | None = None,
) -> Fetched:
    """Bring a data set into a folder: all of it, checked, or nothing.

    What has arrived of the archive is kept beside the folder, hidden, until the folder is there.

    Args:
        data: which.
        folder: where it goes; its parents are made.
        url: another copy of the archive; the path of a file as well, which is left alone.
        replace: take the place of a data set that is there.
        timeout: seconds without a byte after which a connection counts as broken.
        watch: is told how it goes.

    Raises:
        RequestError: the address or the folder cannot be used.
        Img2ImgError: it cannot be had now, or is not what it should be.
        Interrupted: by Ctrl-C; what has arrived is kept.
    """
    url = url or data.url
    archive = _local(url)
    if archive is None:
        check_url(url)
    # A link to another disk stays one: all that is temporary goes beside what it leads to.
    place = folder.expanduser().resolve()
    if not place.name or Path.cwd().is_relative_to(place):
        raise RequestError(
            f"{folder} is the folder you are in, or above it; name another with --out"
        )
    if archive is not None and archive.is_relative_to(place):
        raise RequestError(f"{url} is in the folder that it would become; move it elsewhere")
    if not replace and (there := _already(data, folder, place)):
        return there
    new = not place.parent.exists()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        busy = f"another img2img is fetching {folder} right now; let it finish, or stop it"
        with locked(_beside(place, "lock"), busy):
            _tidy(place)
            # Another may have finished since, or an exchange was undone.
            if not replace and (there := _already(data, folder, place)):
                return there
            watch = watch or Watcher()
            return _Fetch(data, folder, place, url, archive, replace, timeout, watch).run()
    except (FileExistsError, NotADirectoryError) as error:
        raise RequestError(f"{error.filename} is not a folder; name another with --out") from error
    except OSError as error:
        where = error.filename or place.parent
        kept = "what has arrived is kept, and the same command goes on from there"
        arrived = Partial(_beside(place, "tar.gz.partial")).have > 0
        raise Img2ImgError(
            f"cannot write {where}: {error.strerror or error}; "
            f"{kept if arrived else 'name another folder with --out'}"
        ) from error
    finally:
        # Nothing came, so nothing stays.
        if new and place.parent.is_dir() and not any(place.parent.iterdir()):
            place.parent.rmdir()


@dataclass
class _Fetch:
    data: DataSet
    folder: Path
    place: Path
    url: str
    archive: Path | None
    replace: bool
    timeout: float
    watch: Watcher

    def run(self) -> Fetched:
        # Before a download of hours, not after it.
        if self.replace:
            _check_replaceable(self.folder, self.place)
        partial = Partial.at(_beside(self.place, "tar.gz.partial"))
        if self.archive is not None:
            fetched = self._take(self.archive)
            partial.discard()
            return fetched
        try:
            if partial.whole:
                self.watch.note(f"the archive is there already ({size_text(partial.have)})")
            else:
                self._download(partial)
            fetched = self._unpack(partial)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {partial.kept()}") from None
        except BadArchiveError as error:
            came_from = partial.url
            # Or the same command would find the same archive for ever.
            partial.discard()
            raise BadArchiveError(
                f"{error}.\nIt came from {came_from} and has been deleted; nothing was unpacked. "
                f"The same command downloads it again, --url names another copy"
            ) from error
        partial.discard()
        return fetched

    def _take(self, archive: Path) -> Fetched:
        """Unpack a file of the user's."""
        size = archive.stat().st_size
        self._check_room(size, size)
        try:
            return self._unpack(Partial(archive, str(archive), total=size))
        except KeyboardInterrupt:
            raise Interrupted("interrupted: nothing was unpacked") from None
        except BadArchiveError as error:
            raise BadArchiveError(
                f"{error}.\nThat is {archive}, which is left as it is; nothing was unpacked"
            ) from error

    def _download(self, partial: Partial) -> None:
        Transfer(
            url=self.url,
            partial=partial,
            timeout=self.timeout,
            max_bytes=self.data.max_bytes,
            accept=self._check_room,
            watch=self.watch,
        ).run()

    def _check_room(self, total: int | None, have: int) -> None:
        size = total if total is not None else self.data.download_bytes
        if size is None:
            return
        needed = size - have + round(size * UNPACKED_SHARE)
        free = shutil.disk_usage(self.place.parent).free
        if needed > free:
            raise Img2ImgError(
                f"{self.data.name} needs {size_text(needed)} in {self.place.parent} (the archive "
                f"and what is in it), where {size_text(free)} are free; make room, or name another "
                f"disk with --out"
            )

    def _unpack(self, partial: Partial) -> Fetched:
        data, size = self.data, partial.have
        unpacking = _beside(self.place, "unpacking")
        unpacking.mkdir()
        try:
            sha256 = unpack(
                partial.path,
                unpacking,
                max_bytes=data.max_bytes,
                max_files=data.max_files,
                on_read=lambda done: self.watch.unpacking(done, size),
            )
            root = find_root(unpacking)
            pairs = check_contents(root, data)
            mark = {
                "name": data.name,
                "pairs": pairs,
                "url": partial.url,
                "bytes": size,
                "sha256": sha256,
                "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            (root / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
            self._put(root)
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)
        return Fetched(data.name, self.folder, pairs, partial.url, size, sha256, already=False)

    def _put(self, root: Path) -> None:
        """Give the folder its name, in one step, or in two where another one leaves."""
        old = _beside(self.place, "old")
        there = self.place.exists()
        if there:
            self.place.rename(old)
        try:
            root.rename(self.place)
        except BaseException:
            if there:
                old.rename(self.place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _local(url: str) -> Path | None:
    """The file that is meant instead of an address."""
    # An address may be too long for a file's name.
    with contextlib.suppress(OSError):
        if Path(url).is_file():
            return Path(url).resolve()
    return None


def _tidy(place: Path) -> None:
    """Remove what a killed process left, and undo its exchange of folders if it was in it."""
    old = _beside(place, "old")
    if old.exists() and not place.exists():
        old.rename(place)
    for name in ("unpacking", "old"):
        path = _beside(place, name)
        if path.exists():
            shutil.rmtree(path)


def _already(data: DataSet, folder: Path, place: Path) -> Fetched | None:
    """The data set that is in a folder, or None where there is none and one can go.

    Raises:
        RequestError: something else is there.
    """
    if not place.exists():
        return None
    ways = "--out names another folder, --force replaces this one"
    if not place.is_dir():
        raise RequestError(f"{folder} is a file; --out names another place")
    if not any(place.iterdir()):
        return None
    try:
        said = json.loads((place / MARK).read_text(encoding="utf-8"))
        name = str(said["name"])
        pairs = {str(split): int(count) for split, count in said["pairs"].items()}
        there = Fetched(
            name, folder, pairs, str(said["url"]), int(said["bytes"]), str(said["sha256"]), True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(
            f"{folder} is there, but was not fetched by this program, so whether it is "
            f"{data.name} and whole cannot be told; {ways}"
        ) from None
    if name != data.name:
        raise RequestError(f"{folder} holds {name}, not {data.name}; {ways}")
    missing = {
        split: count - count_images(place / split)
        for split, count in pairs.items()
        if count_images(place / split) < count
    }
    if missing:
        lost = ", ".join(f"{count} in {split}/" for split, count in missing.items())
        raise DataError(
            f"{folder} was whole when it was fetched, but files are missing now: {lost}; {ways}"
        )
    return there


def _check_replaceable(folder: Path, place: Path) -> None:
    """Refuse to throw away what is no data set."""
    if not place.exists():
        return
    if not place.is_dir():
        raise RequestError(f"{folder} is a file; --out names another place")
    own = {"train", "val", "test"}
    others = sorted(p.name for p in place.iterdir() if p.name not in own and p.name[0] != ".")
    if others:
        raise RequestError(
            f"{folder} holds more than a data set ({printable(', '.join(others[:3]))}), so it is "
            f"not replaced; move that away, or name another folder with --out"
        )


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{what}")
