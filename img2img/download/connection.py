"""Asking a server, over http or https and nothing else; its failures in two kinds."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import IO, Any
from urllib.parse import urlsplit

from img2img.errors import Img2ImgError, RequestError

# The server's trouble, and likely to pass.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_REFUSED = 416
GZIP_MAGIC = b"\x1f\x8b"

_NETWORK = (OSError, http.client.HTTPException)


class BrokenError(Exception):
    """This attempt failed; another may not.

    Args:
        reason: in words.
        pause: seconds that the server wants to be left alone, if it said.
    """

    def __init__(self, reason: str, pause: float | None = None) -> None:
        super().__init__(reason)
        self.pause = pause


def check_url(url: str) -> None:
    """Say whether something can be downloaded from here.

    Raises:
        RequestError: it is no http or https address.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname)
        # Reading it is what checks it.
        _ = parts.port
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url:
        raise RequestError(
            f"{url!r} is not an address that starts with http:// or https://, nor a file that is "
            f"there"
        )


def ask(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """The server's answer, of which nothing has been read; 200, 206 or 416.

    Raises:
        BrokenError: there is none now.
        Img2ImgError: asking again will not help.
    """
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        response: http.client.HTTPResponse = _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            _explain(url, error)
        raise
    except urllib.error.URLError as error:
        cause = error.reason
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Img2ImgError(
                f"{url}: the server's certificate is not valid ({cause.verify_message}); "
                f"--url names another copy of the archive"
            ) from None
        if isinstance(cause, TimeoutError):
            raise BrokenError(f"no answer for {timeout:g} s") from None
        raise BrokenError(f"the server cannot be reached ({_words(cause)})") from None
    except TimeoutError:
        raise BrokenError(f"no answer for {timeout:g} s") from None
    except _NETWORK as error:
        raise BrokenError(f"the server's answer broke off ({_words(error)})") from None
    if response.status not in (200, 206, RANGE_REFUSED):
        response.close()
        raise Img2ImgError(
            f"{url}: the server answers {response.status} {response.reason} and no file; "
            f"--url names another copy of the archive"
        )
    return response


def read(response: http.client.HTTPResponse, count: int, timeout: float) -> bytes:
    """At most so many bytes, or none at the end; `timeout` is for the message.

    One read of the connection at a time, so that a timeout loses nothing that had come.

    Raises:
        BrokenError: the connection stalls or breaks.
    """
    try:
        return response.read1(count)
    except TimeoutError:
        raise BrokenError(f"the connection stalls: nothing has come for {timeout:g} s") from None
    except _NETWORK as error:
        raise BrokenError(f"the connection broke ({_words(error)})") from None


def read_start(url: str, response: http.client.HTTPResponse, timeout: float) -> bytes:
    """The first bytes of a gzip file.

    Raises:
        BrokenError: the connection stalls or breaks.
        Img2ImgError: it is something else.
    """
    first = b""
    while len(first) < 64:
        chunk = read(response, 64 - len(first), timeout)
        if not chunk:
            break
        first += chunk
    if first.startswith(GZIP_MAGIC) or not first:
        return first
    text = first.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<") or response.headers.get_content_type() == "text/html":
        what = "a web page instead of the archive; a proxy or a sign-in page may be in between"
    elif first.startswith(b"PK\x03\x04"):
        what = "a zip file; a .tar.gz is needed"
    else:
        what = "something that is no gzip file; a .tar.gz is needed"
    raise Img2ImgError(f"{url}: sent {what}. --url names another copy of the archive")


def _explain(url: str, error: urllib.error.HTTPError) -> None:
    said = f"{error.code} {error.reason}".strip()
    if error.code in PASSING:
        after = (error.headers.get("Retry-After") or "").strip()
        pause = float(after) if after.isascii() and after.isdigit() else None
        raise BrokenError(f"the server answers {said}", pause) from None
    missing = error.code in (404, 410)
    raise Img2ImgError(
        f"{url}: {'there is no such file' if missing else 'the server refuses'} ({said}); "
        f"--url names another copy of the archive"
    ) from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any
    ) -> Any:
        # The base class would follow to ftp as well, and refuse others without the reason.
        target = headers.get("location") or headers.get("uri") or ""
        if urlsplit(target).scheme not in ("", "http", "https"):
            raise Img2ImgError(
                f"{req.full_url}: leads to {target!r}, which is neither http nor https"
            )
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Errors(urllib.request.HTTPErrorProcessor):
    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> Any:
        # An answer to a question about a range, and as such no error.
        if response.status == RANGE_REFUSED:
            return response
        return super().http_response(request, response)

    https_response = http_response


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener: that would bring file, ftp and data addresses along.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        _Errors(),
    ):
        opener.add_handler(handler)
    return opener


def _words(error: object) -> str:
    number = getattr(error, "errno", None)
    # Those of name look-ups carry negative numbers and a text of their own.
    text = getattr(error, "strerror", None) or (os.strerror(number) if number else str(error))
    return str(text) or type(error).__name__
