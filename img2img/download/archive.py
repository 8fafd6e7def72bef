"""Unpacking a stranger's `.tar.gz`: whole and harmless, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from img2img.errors import Img2ImgError

CHUNK = 1 << 20
# Names fit into this many times over. tarfile would read any amount into memory, and its way
# through a header takes time that grows with the square.
MAX_HEADER = 16 << 10
# Reads for one member: its own header, and a few that extend it.
MAX_HEADERS = 32
MAX_NAME = 1024
MAX_PART = 200
MAX_DEPTH = 10

_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
# All that tarfile and gzip raise at bytes they do not expect. Recursion: extended headers may
# follow each other for ever.
_DAMAGE = (
    tarfile.TarError,
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
)


class BadArchiveError(Img2ImgError):
    """The archive is damaged, is not what it should be, or would do harm."""


def unpack(
    archive: Path,
    folder: Path,
    *,
    max_bytes: int,
    max_files: int,
    on_read: Callable[[int], None] = lambda done: None,
) -> str:
    """Unpack all of an archive into an empty folder, and check it to its last byte.

    Only regular files and folders are taken; their modes, owners and times are not. Hidden files,
    such as the Finder leaves, are passed over.

    Args:
        archive: a `.tar.gz`.
        folder: empty; on errors whatever is in it is to be thrown away.
        max_bytes: of all files together.
        max_files: files and folders.
        on_read: told how many bytes of the archive have been read.

    Returns:
        The archive's SHA-256.

    Raises:
        BadArchiveError: it is damaged, or holds what it should not; names the member.
        OSError: the folder cannot be written to.
    """
    with archive.open("rb") as file:
        raw = _Hashed(file)
        unpacked = _Unpacked(fileobj=raw, mode="rb")
        try:
            tar = tarfile.TarFile(fileobj=unpacked, mode="r")
        except _DAMAGE as error:
            raise _damaged(error) from error
        count = size = 0
        while (member := _next(tar)) is not None:
            unpacked.headers = 0
            count += 1
            size += member.size
            _check(member, size, count, max_bytes, max_files)
            parts = _parts(member)
            if parts and not any(part.startswith(".") for part in parts):
                _write(member, unpacked, folder.joinpath(*parts))
            # Of hundreds of thousands none is needed again; the list is there, but in no type.
            tar.members.clear()  # type: ignore[attr-defined]
            on_read(file.tell())
        _finish(unpacked, max_bytes)
        on_read(file.tell())
        return raw.digest.hexdigest()


class _Hashed(io.RawIOBase):
    """Hashes what is read. Everything is read once, from the beginning to the end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.digest.update(chunk)
        return chunk


class _Unpacked(gzip.GzipFile):
    """What tarfile reads from: headers, and those no longer than they need to be."""

    last = b""
    # Since the last member: a sparse file's map or a chain of extended headers may have no end, and
    # tarfile reads it all before it shows what it has.
    headers = 0

    def read(self, size: int | None = -1) -> bytes:
        self.headers += 1
        if self.headers > MAX_HEADERS:
            raise ValueError("headers that do not end")
        if size is None or not 0 <= size <= MAX_HEADER:
            raise ValueError("a header of implausible length")
        self.last = super().read(size)
        return self.last

    def contents(self, size: int) -> bytes:
        """The next bytes, of a file and not of a header."""
        return super().read(size)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except _DAMAGE as error:
        raise _damaged(error) from error


def _check(member: tarfile.TarInfo, size: int, count: int, max_bytes: int, max_files: int) -> None:
    name = member.name
    if member.size < 0:
        raise _refused(name, "claims a negative size")
    if member.type in _KINDS:
        where = f" to {member.linkname!r}" if member.linkname else ""
        raise _refused(name, f"is {_KINDS[member.type]}{where}")
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise _refused(name, "is neither a plain file nor a folder")
    if size > max_bytes:
        raise _refused(name, f"makes it more than {max_bytes / 1e9:.1f} GB, which is implausible")
    if count > max_files:
        raise _refused(name, f"is one of more than {max_files} files, which is implausible")


def _parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    """A member's place below the folder; none for the folder itself."""
    name = member.name
    # Colons and backslashes are drives, streams and separators on Windows.
    if not name.isprintable() or any(letter in name for letter in '\\:*?"<>|'):
        raise _refused(name, "has an odd name")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise _refused(name, "has an absolute path")
    if ".." in path.parts:
        raise _refused(name, "leads out of its folder")
    if (
        len(name) > MAX_NAME
        or len(path.parts) > MAX_DEPTH
        or any(len(part.encode()) > MAX_PART for part in path.parts)
    ):
        raise _refused(name, "has a name that is too long")
    return path.parts


def _write(member: tarfile.TarInfo, unpacked: _Unpacked, path: Path) -> None:
    try:
        (path if member.isdir() else path.parent).mkdir(parents=True, exist_ok=True)
        if member.isdir():
            return
        # A new file or none: a second member of the same name, in whatever case, does not replace.
        file = path.open("xb")
    except (FileExistsError, NotADirectoryError):
        raise _refused(member.name, "is there twice") from None
    with file:
        left = member.size
        try:
            unpacked.seek(member.offset_data)
        except _DAMAGE as error:
            raise _damaged(error) from error
        while left:
            try:
                chunk = unpacked.contents(min(left, CHUNK))
            except _DAMAGE as error:
                raise _damaged(error) from error
            if not chunk:
                raise _damaged(EOFError())
            file.write(chunk)
            left -= len(chunk)


def _finish(unpacked: _Unpacked, max_bytes: int) -> None:
    """Read to the end: tarfile stops without a word at whatever is no header."""
    try:
        if len(unpacked.last) < tarfile.BLOCKSIZE:
            raise EOFError
        if any(unpacked.last):
            raise ValueError("something that is no file lies in between")
        # gzip compares its checksum at the last byte.
        left = max_bytes
        while chunk := unpacked.contents(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ValueError("it goes on for ever")
    except _DAMAGE as error:
        raise _damaged(error) from error


def _refused(name: str, what: str) -> BadArchiveError:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return BadArchiveError(f"the archive is refused: {shown!r} {what}")


def _damaged(error: BaseException) -> BadArchiveError:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError):
        said = "it ends too early"
    return BadArchiveError(f"the archive is damaged or not whole ({said})")
