"""A file that has arrived in part, and what the server said about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path


@dataclass
class Partial:
    """Bytes of a file, and beside them what tells later whether the rest still fits.

    Attributes:
        path: where the bytes are.
        url: where they came from.
        etag: the server's mark of this version, strong ones only, or "".
        modified: the server's `Last-Modified`, or "".
        total: bytes of the whole file, if the server said.
        resumes: whether, as far as is known, the server sends the rest of it.
    """

    path: Path
    url: str = ""
    etag: str = ""
    modified: str = ""
    total: int | None = None
    resumes: bool = True

    @classmethod
    def at(cls, path: Path) -> Partial:
        """What lies at a path; what cannot be trusted is thrown away."""
        try:
            said = json.loads(_beside(path).read_text(encoding="utf-8"))
            partial = cls(path, **{key: said[key] for key in ("url", "etag", "modified", "total")})
            partial.resumes = said.get("resumes", True) is True
        except (OSError, ValueError, KeyError, TypeError):
            partial = cls(path)
        texts = (partial.url, partial.etag, partial.modified)
        sound = (
            all(isinstance(text, str) for text in texts)
            and partial.url != ""
            and (partial.total is None or isinstance(partial.total, int))
        )
        if not sound or (partial.total is not None and partial.have > partial.total):
            partial.discard()
        return partial

    @property
    def have(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.total is not None and self.have == self.total

    def begin(self, url: str, headers: Message, total: int | None, *, resumes: bool) -> None:
        """Start from nothing, with what the server says about the file."""
        self.discard()
        etag = headers.get("ETag", "")
        self.url, self.total, self.resumes = url, total, resumes
        # A weak one does not promise the same bytes.
        self.etag = "" if etag.startswith("W/") else etag
        self.modified = headers.get("Last-Modified", "")
        self.path.write_bytes(b"")
        self.save()

    def save(self) -> None:
        """Write down what the server said."""
        said = asdict(self)
        del said["path"]
        new = self.path.with_name(f"{self.path.name}.json.new")
        new.write_text(json.dumps(said), encoding="utf-8")
        new.replace(_beside(self.path))

    def discard(self) -> None:
        """Remove all of it."""
        self.path.unlink(missing_ok=True)
        _beside(self.path).unlink(missing_ok=True)
        self.url = self.etag = self.modified = ""
        self.total, self.resumes = None, True

    def kept(self) -> str:
        """How much there is and what to do, as part of a sentence."""
        if not self.have:
            return "nothing has arrived yet; the same command tries again"
        kept = f"{progress_text(self.have, self.total)} are kept"
        if not self.resumes and not self.whole:
            return (
                f"{kept}, but this server does not go on there: the same command starts again, "
                f"unless --url names one that does"
            )
        return f"{kept}, and the same command goes on there"


def size_text(count: int) -> str:
    """Bytes in words: `30.2 MB`."""
    if count < 1000:
        return f"{count} bytes"
    if count < 999_950:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 999_950_000 else f"{count / 1e9:.1f} GB"


def progress_text(have: int, total: int | None) -> str:
    """`12.0 MB of 30.2 MB`, or the first alone."""
    return size_text(have) if total is None else f"{size_text(have)} of {size_text(total)}"


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
