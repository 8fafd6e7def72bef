"""One file over HTTP; what breaks goes on where it stopped.

A later request asks for the rest of the same file (`Range` with `If-Range`) and nothing else: where
the server's file has changed, or the server cannot resume, it begins anew. What is there is kept
until the beginning of another archive has come.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from img2img.download.connection import RANGE_REFUSED, BrokenError, ask, read, read_start
from img2img.download.partial import Partial, progress_text, size_text
from img2img.errors import Img2ImgError

# Attempts in a row that bring nothing new, and the pause after the first, in seconds; it doubles.
ATTEMPTS = 5
PAUSE = 1.0
LONGEST_PAUSE = 30.0
CHUNK = 1 << 16


class Watcher:
    """Is told how a fetch goes. This one is not interested."""

    def note(self, text: str) -> None:
        """Something worth a line has happened."""

    def downloading(self, have: int, total: int | None) -> None:
        """So many bytes are there, of so many if the server says."""

    def unpacking(self, done: int, total: int) -> None:
        """So many bytes of the archive have been read."""


@dataclass
class Transfer:
    """Brings a file to `partial.path`, going on with what is there.

    Attributes:
        url: an http or https address of a gzip file.
        partial: where it goes, and what is already there.
        timeout: seconds without a byte after which a connection counts as broken.
        max_bytes: a longer file is refused.
        accept: called with the length, or None where the server does not say, and with how much of
            it is there, before anything is written; raises to refuse.
        watch: is told how it goes.
    """

    url: str
    partial: Partial
    timeout: float
    max_bytes: int
    accept: Callable[[int | None, int], None]
    watch: Watcher
    # What is there is of no use to this server.
    _afresh: bool = field(default=False, init=False)

    def run(self) -> None:
        """Bring all of it, in as many attempts as that takes.

        Raises:
            Img2ImgError: it cannot be had now; says what is kept and what to do.
        """
        partial = self.partial
        if partial.url != self.url:
            # Of this server nothing is known yet.
            partial.resumes = True
        best, failures = partial.have, 0
        while not partial.whole:
            reason, pause = "the server sent a part only", None
            try:
                self._attempt()
            except BrokenError as broken:
                reason, pause = str(broken), broken.pause
            if partial.whole:
                break
            # More than ever before is what counts as progress, or a server whose file changes each
            # time would keep us busy for ever.
            failures = 1 if partial.have > best else failures + 1
            best = max(best, partial.have)
            kept = partial.kept()
            if failures >= ATTEMPTS:
                raise Img2ImgError(
                    f"{self.url}: {reason}; gave up after {ATTEMPTS} attempts.\n"
                    f"{kept[:1].upper()}{kept[1:]}. If the server stays away, --url names another "
                    f"copy of the archive"
                )
            pause = min(PAUSE * 2 ** (failures - 1) if pause is None else pause, LONGEST_PAUSE)
            at = f" at {progress_text(partial.have, partial.total)}" if partial.have else ""
            self.watch.note(f"{reason}{at}; trying again in {pause:.0f} s")
            time.sleep(pause)

    def _attempt(self) -> None:
        headers = self._headers()
        asked = self.partial.have if "Range" in headers else 0
        with ask(self.url, headers, self.timeout) as response:
            if response.status == RANGE_REFUSED:
                self._settle(response, asked)
            elif response.status == 206:
                self._receive(response, b"", self._continue(response, asked))
            else:
                first = read_start(self.url, response, self.timeout)
                self._receive(response, first, self._begin(response, first, asked))

    def _headers(self) -> dict[str, str]:
        partial = self.partial
        headers = {"User-Agent": "img2img", "Accept-Encoding": "identity"}
        version = (partial.etag or partial.modified) if partial.url == self.url else ""
        # Without a version, as of another server's copy, only the length tells whether it is the
        # same file; the checks of the archive have the last word.
        if partial.have and not self._afresh and (version or partial.total is not None):
            headers["Range"] = f"bytes={partial.have}-"
            if version:
                headers["If-Range"] = version
        return headers

    def _begin(self, response: http.client.HTTPResponse, first: bytes, asked: int) -> int | None:
        """Take a whole file; how long it will be, if the server says."""
        partial, total = self.partial, response.length
        if response.headers.get("Content-Length", "").isdigit() and total is not None:
            # http.client counts down while it is read.
            total = int(response.headers["Content-Length"])
        if total is not None and total > self.max_bytes:
            raise Img2ImgError(
                f"{self.url}: {size_text(total)}, far more than this data set has; is --url right?"
            )
        # Before anything is thrown away.
        self.accept(total, 0)
        if partial.have and not first:
            raise BrokenError("the server sends an empty file")
        versions = (("ETag", partial.etag), ("Last-Modified", partial.modified))
        changed = partial.url == self.url and any(
            old and response.headers.get(header, old) != old for header, old in versions
        )
        if partial.have and not self._afresh:
            why = "the file on the server has changed" if changed else "the server cannot resume"
            self.watch.note(f"{why}: starting again")
        size = "a file of unknown length" if total is None else size_text(total)
        self.watch.note(f"downloading {size} from {self.url}")
        refuses = response.headers.get("Accept-Ranges", "").strip().lower() == "none"
        resumes = not refuses and (changed or not asked)
        partial.begin(self.url, response.headers, total, resumes=resumes)
        self._afresh = False
        return total

    def _continue(self, response: http.client.HTTPResponse, asked: int) -> int:
        """Take the rest of a file; where it will end."""
        partial, length = self.partial, response.length
        said = response.headers.get("Content-Range", "").strip()
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said)
        start, end = (int(found[1]), int(found[2]) + 1) if found else (-1, 0)
        total = int(found[3]) if found and found[3] != "*" else partial.total
        etag = response.headers.get("ETag", "")
        if (
            not asked
            or start != asked
            or end <= start
            or (length is not None and length != end - start)
            or (total is not None and end > total)
            or (partial.total is not None and total != partial.total)
            or (partial.url == self.url and partial.etag and etag and etag != partial.etag)
        ):
            self._begin_next()
            raise BrokenError("what the server sends does not fit what is there: starting again")
        self.accept(total, asked)
        if partial.url != self.url:
            partial.url, partial.etag, partial.modified = self.url, "", ""
        partial.total, partial.resumes = total, True
        partial.save()
        self.watch.note(f"going on at {progress_text(asked, total)}")
        return end

    def _receive(self, response: http.client.HTTPResponse, first: bytes, end: int | None) -> None:
        partial = self.partial
        have = partial.have
        self.watch.downloading(have, partial.total)
        with partial.path.open("ab") as file:
            chunk = first or read(response, CHUNK, self.timeout)
            while chunk:
                file.write(chunk)
                # What is on the disk is what counts when the program is killed.
                file.flush()
                have += len(chunk)
                self.watch.downloading(have, partial.total)
                if have > self.max_bytes:
                    break
                chunk = read(response, CHUNK, self.timeout)
        if have > self.max_bytes:
            partial.discard()
            raise Img2ImgError(
                f"{self.url}: sends more than {size_text(self.max_bytes)}, far more than this data "
                f"set has; is --url right?"
            )
        if end is None:
            # The server never said how long it is, so its end is the end. Whether it is, the
            # archive's own checks tell.
            partial.total = have
            partial.save()
        elif have < end:
            raise BrokenError("the connection ended early")

    def _settle(self, response: http.client.HTTPResponse, asked: int) -> None:
        """The server has nothing from there on: it is all there, or it is another file."""
        said = response.headers.get("Content-Range", "").strip()
        found = re.fullmatch(r"bytes \*/(\d+)", said)
        if asked and found and int(found[1]) == asked and self.partial.total is None:
            self.partial.total = asked
            self.partial.save()
            return
        self._begin_next()
        raise BrokenError("the server's file is shorter than what is there: starting again")

    def _begin_next(self) -> None:
        # What is there may still be of use to the server that it came from.
        self._afresh, self.partial.resumes = True, False
