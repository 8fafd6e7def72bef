"""What a study says of the model whose images it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from img2img.bundle import find_bundle, read_info
from img2img.held_out import is_model


def about_model(model: Path, data: str) -> dict[str, Any]:
    """What is said of a model in the page and beside the score; the participant is not shown it."""
    if not is_model(model):
        return {"outputs": model.resolve().name, "data": data}
    info = read_info(find_bundle(model))
    return {
        "model": info.name,
        "file": model.resolve().name,
        "task": info.task.get("name"),
        "generator": info.generator.get("name"),
        "step": info.trained.get("step"),
        "data": data,
    }
