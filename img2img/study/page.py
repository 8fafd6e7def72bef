"""Writes a study as one page that needs nothing but a browser."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def page_of(study: dict[str, Any]) -> str:
    """The page of a study, as `make_study` gives it."""
    template = resources.files("img2img.study").joinpath("page.html").read_text(encoding="utf-8")
    # Names in a description are anybody's text. Without these three characters nothing in the block
    # can end the script element or start a comment; JSON reads the escapes back.
    block = json.dumps(study, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        block = block.replace(character, f"\\u{ord(character):04x}")
    return template.replace("__STUDY__", block)
