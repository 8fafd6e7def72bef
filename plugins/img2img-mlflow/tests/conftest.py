"""Makes the plugin importable, and findable as a distribution, where it is not installed."""

import importlib.metadata
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

if importlib.util.find_spec("img2img_mlflow") is None:
    sys.path.insert(0, str(ROOT / "src"))


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """The distribution's name: really installed, or by a dist-info that repeats pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        importlib.metadata.distribution(project["name"])
    except importlib.metadata.PackageNotFoundError:
        stem = f"{project['name'].replace('-', '_')}-{project['version']}"
        info = tmp_path / "site" / f"{stem}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = project["entry-points"].items()
        lines = [
            line
            for group, entries in groups
            for line in (f"[{group}]", *(f"{name} = {at}" for name, at in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(info.parent)
    return project["name"]
