"""What the libraries behind the Hugging Face hub say, brought into the form of our own messages."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Who writes a line or two for each attempt.
_LOGGERS = ("huggingface_hub", "httpx", "httpx2")
_BRACKETS = ("()", "[]", "{}")


@contextmanager
def quiet_hub() -> Iterator[None]:
    """One line of ours, instead of a dozen of theirs, where the hub cannot be reached.

    Their attempts take half a minute a file, so it should not be none.
    """
    handler = _Once(logging.WARNING)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


class _Once(logging.Handler):
    """Says at the first failed attempt what is going on, and nothing else."""

    told = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.told or "thrown while requesting" not in record.getMessage():
            return
        self.told = True
        warnings.warn(
            "the Hugging Face hub cannot be reached so far; trying again for up to a minute "
            "(HF_HUB_OFFLINE=1 does without it where all has been fetched before)",
            RuntimeWarning,
            stacklevel=1,
        )


def first_sentence(said: object, limit: int = 200) -> str:
    """What a library says, as part of a sentence: its first one, without half brackets."""
    line = (str(said).strip().splitlines() or [""])[0].strip()
    for found in re.finditer(r"[.!?](?=\s+[A-Z]|$)", line):
        if _closed(line[: found.start()]):
            line = line[: found.start()]
            break
    if len(line) > limit:
        line = line[:limit].rsplit(" ", 1)[0]
    while not _closed(line):
        line = line[: max(line.rfind(pair[0]) for pair in _BRACKETS)]
    return line.rstrip(" ,:;") or type(said).__name__


def _closed(text: str) -> bool:
    return all(text.count(pair[0]) <= text.count(pair[1]) for pair in _BRACKETS)
