"""What lies where in a tar file, from its headers alone; nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO

from img2img.errors import DataError

_BLOCK = 512
# A name, or all that a pax header says of one member; tarfile itself has no limit.
_LONGEST_TEXT = 1 << 20
# Images of usual size lie closer than that, and reading several headers at once, with all between
# them, takes less than going to each: on a disk that turns, that is a movement of its arm.
_AT_ONCE = 1 << 18
# Zeros that may follow the end mark: `tar` fills up 10,240 bytes, with `-b` any number.
_PADDING = 1 << 20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Ending(IntEnum):
    """What a tar file has behind its last member."""

    # A block of zeros, the end mark, and padding.
    WHOLE = 0
    # No end mark: it may have been cut off between two members.
    MISSING = 1
    # More zeros than padding: disk space was set aside for it, and only in part written to.
    ZEROS = 2
    # Behind the end mark something else, which readers of tar files do not look at.
    MORE = 3


@dataclass(frozen=True)
class Member:
    """One file in a tar file.

    Attributes:
        name: as it is written there, `/` between folders; no path to open.
        offset: where its content begins, in bytes.
        size: of its content, in bytes.
        odd: what it is instead of a file whose content lies there, in words; else empty.
    """

    name: str
    offset: int
    size: int
    odd: str = ""


def members(path: Path, at_end: Callable[[Ending], None] = lambda ending: None) -> Iterator[Member]:
    """The members of a tar file in order: ustar, GNU's format, or pax. Folders are passed over.

    Args:
        path: the tar file.
        at_end: called after the last member with what follows it. A megabyte of that is read at
            most.

    Raises:
        DataError: it is compressed, damaged, cut off, or no tar file; how far it was read is no
            matter.
    """
    try:
        with path.open("rb", buffering=_AT_ONCE) as file:
            headers = _Headers(path, file)
            yield from headers.members()
            at_end(headers.ending())
    except OSError as error:
        raise DataError(f"data.root: {path} cannot be read ({error.strerror})") from error


class _Headers:
    """One pass through the headers of an open tar file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.end = file.seek(0, os.SEEK_END)
        self.at = 0
        self.sparse_goes_on = self.is_ended = False

    def members(self) -> Iterator[Member]:
        always: dict[str, str] = {}
        # What the headers before a member say of it.
        said: dict[str, str] = {}
        while (info := self._next()) is not None:
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
                name = self._text(info.size).split(b"\0", 1)[0]
                if info.type == tarfile.GNUTYPE_LONGNAME:
                    said["path"] = name.decode("utf-8", "surrogateescape")
                continue
            if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE):
                records = self._records(self._text(info.size))
                (always if info.type == tarfile.XGLTYPE else said).update(records)
                continue
            said = {**always, **said}
            if (member := self._member(info, said)) is not None:
                yield member
            said = {}
        if said:
            raise self._damaged("ends after a header that announces another")

    def ending(self) -> Ending:
        """What follows, after all members."""
        if not self.is_ended:
            return Ending.MISSING
        self.file.seek(self.at)
        rest = self.file.read(min(self.end - self.at, _PADDING))
        if rest.count(0) < len(rest):
            return Ending.MORE
        return Ending.WHOLE if self.end - self.at <= _PADDING else Ending.ZEROS

    def _member(self, info: tarfile.TarInfo, said: dict[str, str]) -> Member | None:
        name = said.get("path", info.name).rstrip("/")
        size = self._number(said["size"]) if "size" in said else info.size
        if info.type == tarfile.GNUTYPE_SPARSE:
            while self.sparse_goes_on:
                self.sparse_goes_on = self._read(_BLOCK)[504] != 0
        start = self.at
        # Others have a size without content: a hard link that of the file.
        if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:
            self._skip(size, f"within its member {name!r}")
        if info.isdir():
            return None
        odd = ""
        if info.issym() or info.islnk():
            odd = "a link; pack with --dereference and --hard-dereference"
        elif info.type == tarfile.GNUTYPE_SPARSE or "GNU.sparse" in said:
            odd = "a sparse file; pack without --sparse"
        elif info.type not in tarfile.REGULAR_TYPES:
            odd = "not a file"
        return Member(name, start, size, odd)

    def _next(self) -> tarfile.TarInfo | None:
        """The next header; None at the end of the archive."""
        if self.at == self.end and self.at > 0:
            return None
        first = self.at == 0
        block = self._read(_BLOCK)
        if not any(block):
            self.is_ended = True
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        # Strangers' bytes: tarfile has had others than its own HeaderError.
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            if first:
                self._refuse_compressed(block)
            raise self._damaged(
                "is no tar file" if first else f"has no header at byte {self.at - _BLOCK:,}"
            ) from error
        if info.size < 0:
            raise self._damaged(f"has a member of a size below 0, {info.name!r}")
        self.sparse_goes_on = block[482] != 0
        return info

    def _refuse_compressed(self, block: bytes) -> None:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                raise DataError(
                    f"data.root: {self.path} is compressed ({name}), so no image can be read "
                    f"without all before it; unpack it to a plain .tar file: images are "
                    f"compressed already"
                )

    def _read(self, count: int) -> bytes:
        """The next bytes, to the end of their last block."""
        if not self.end:
            raise self._damaged("is empty")
        if self.at + count > self.end:
            raise self._damaged("ends within a header")
        self.file.seek(self.at)
        data = self.file.read(count)
        self._skip(count, "within a header")
        if len(data) != count:
            raise self._damaged("changed while it was read")
        return data

    def _skip(self, count: int, where: str) -> None:
        if self.at + count > self.end:
            raise self._damaged(f"ends {where}")
        # The last block may be cut off where nothing follows.
        self.at = min(self.at + -(-count // _BLOCK) * _BLOCK, self.end)

    def _text(self, size: int) -> bytes:
        if size > _LONGEST_TEXT:
            raise self._damaged(f"has a header of {size:,} bytes")
        return self._read(size)

    def _records(self, data: bytes) -> dict[str, str]:
        """The records of a pax header: "LENGTH KEY=VALUE\\n" each, POSIX.1-2001."""
        records: dict[str, str] = {}
        at = 0
        while at < len(data) and data[at] != 0:
            length = self._number(data[at : at + 20].split(b" ", 1)[0].decode("latin-1"))
            record = data[at : at + length]
            key, equals, value = record.partition(b" ")[2].partition(b"=")
            if not equals or len(record) != length or not record.endswith(b"\n"):
                raise self._damaged("has a damaged pax header")
            # The others would have to be carried along to every member.
            if key in (b"path", b"size") or key.startswith(b"GNU.sparse."):
                records[key[:10].decode()] = value[:-1].decode("utf-8", "surrogateescape")
            at += length
        return records

    def _number(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._damaged("has a damaged pax header")
        return int(text)

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"data.root: {self.path} {what}; it may have been copied in part: get it again"
        )
