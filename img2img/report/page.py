"""Writes `report.html`, a training run as one page that people can send to each other.

All of it comes from files in the run directory, so it can be written at any time: during a run,
after a crash, years later without torch. `page.html`, its styles and its programs
beside this module are put together into one file, in which they draw one block of JSON.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from img2img.files import whole_file
from img2img.report.curves import read_metrics
from img2img.report.pictures import read_samples

# In this order: each uses what those before it define.
PROGRAMS = ("elements.js", "charts.js", "samples.js", "page.js")


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory and returns its path.

    Missing and damaged files leave a gap or a remark in the page, never an error. An older report
    is replaced in one step: somebody who opens it meanwhile never gets half of a page.

    Raises:
        OSError: the directory does not exist or cannot be written.
    """
    program = "\n".join(_part(name) for name in PROGRAMS)
    template = _part("page.html").replace("__STYLE__", _part("page.css"))
    template = template.replace("__PROGRAM__", program)
    # Names in a recipe are anybody's text. Without these three characters nothing in the block can
    # end the script element or start a comment; JSON reads the escapes back as what they stand for.
    block = json.dumps(_collect(run_dir), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        block = block.replace(character, f"\\u{ord(character):04x}")
    report = run_dir / "report.html"
    with whole_file(report) as unfinished:
        unfinished.write_text(template.replace("__RUN__", block), encoding="utf-8")
    return report


def _part(name: str) -> str:
    return resources.files("img2img.report").joinpath(name).read_text(encoding="utf-8")


def _collect(run_dir: Path) -> dict[str, Any]:
    remarks: list[str] = []
    name, recipe = _load(run_dir / "recipe.toml", _settings, remarks) or ("", [])
    return {
        "name": name or run_dir.resolve().name,
        "recipe": recipe,
        "best": (run_dir / "best.safetensors").is_file(),
        "environment": _load(run_dir / "environment.json", _facts, remarks) or [],
        **read_metrics(_load(run_dir / "metrics.jsonl", str, remarks) or "", remarks),
        **read_samples(run_dir / "samples", remarks),
        "remarks": remarks,
    }


def _load(path: Path, parse: Callable[[str], Any], remarks: list[str]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        pass  # the page says what is not there yet
    except (OSError, ValueError) as error:
        remarks.append(f"{path.name} could not be read: {error}")
    except RecursionError:
        remarks.append(f"{path.name} could not be read: it is nested too deeply")
    return None


def _settings(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The name that a recipe gives, and its tables as rows."""
    recipe = tomllib.loads(text)
    tables = {key: value for key, value in recipe.items() if _has_tables(value)}
    groups = {"": {key: value for key, value in recipe.items() if key not in tables}, **tables}
    rows = [{"table": key, "rows": list(_rows("", group))} for key, group in groups.items()]
    return str(recipe.get("name") or ""), rows


def _facts(text: str) -> list[tuple[str, str]]:
    return list(_rows("", json.loads(text)))


def _has_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_tables, value)))


def _rows(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """One row a value: nested tables get dotted keys, and entries of a [[list]] their name."""
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _rows(f"{key}.{name}" if key else name, item)
    elif isinstance(value, list) and _has_tables(value):
        for n, item in enumerate(value, 1):
            rest = dict(item) if isinstance(item, dict) else item
            name = str(rest.pop("name", n) if isinstance(item, dict) else n)
            yield from _rows(f"{key}.{name}" if key else name, rest)
    elif isinstance(value, int) and key.startswith("parameters."):
        yield key, f"{value:,}"
    else:
        yield key, value if isinstance(value, str) and value else json.dumps(value, default=str)
