"""img2img: paired image-to-image translation.

`load` gives a translator for a trained model, `train` runs a recipe, `hookimpl` marks what a
plugin implements. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img.hookspecs import hookimpl

if TYPE_CHECKING:
    from img2img.inference import Translator
    from img2img.training import FinishedRun

__all__ = ["hookimpl", "load", "train"]


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "float32",
    seed: int = 0,
    tile: int | None = None,
    plugins: Sequence[str | Path] = (),
) -> Translator:
    """A trained model as something to call: an image in, an image of the same kind out.

    Args:
        path: a run directory or a `.safetensors` bundle.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: `float32`, `bfloat16`, or `auto`, which is bfloat16 where the device has it.
        seed: of the dropout noise, where the model keeps it on.
        tile: sides of the tiles that large images are cut into, in pixels as the network sees them;
            0 never cuts, None cuts what would take more than 4 GiB of features.
        plugins: local plugin files, as `--plugin` takes them.

    Raises:
        ModelFileError: it is no model, or needs a component that is not here.
        RequestError: a device that is not here.
    """
    from img2img.engine.precision import resolve_device
    from img2img.plugins import load_plugins
    from img2img.rebuild import load_translator

    loaded = load_plugins(Path(file) for file in plugins)
    return load_translator(
        Path(path),
        loaded.registry,
        device=resolve_device(device),
        precision=precision,
        seed=seed,
        tile=tile,
    )


def train(
    recipe: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    fresh: bool = False,
    device: str = "auto",
    precision: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> FinishedRun:
    """Train a recipe, as `img2img run` does.

    Args:
        recipe: a path, or the name of a recipe that ships with the package.
        overrides: dotted keys and values, such as `{"train.steps": 1000}`.
        out: the run directory; `runs/NAME` unless given.
        resume: go on where the directory stands.
        fresh: replace a run that is there.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        precision: instead of the recipe's.
        plugins: local plugin files, as `--plugin` takes them.

    Raises:
        Img2ImgError: see `img2img.errors`; the message says what to do.
    """
    from img2img.engine.joining import joined
    from img2img.plugins import load_plugins
    from img2img.training import to_assignments, train_recipe

    with joined(device) as processes:
        return train_recipe(
            str(recipe),
            load_plugins(Path(file) for file in plugins),
            overrides=to_assignments(overrides or {}),
            out=Path(out) if out is not None else None,
            resume=resume,
            fresh=fresh,
            device=device,
            precision=precision,
            processes=processes,
        )
