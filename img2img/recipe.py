"""The schema of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic
import tomli_w
from pydantic import Field
from pydantic_core import to_jsonable_python

from img2img.component import KINDS
from img2img.document import KeyPath

Precision = Literal["auto", "float32", "bfloat16"]
# Pixels; far beyond any image, so a mistyped size is a mistake and not an allocation.
LARGEST = 65536


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class ColorSettings(_Table):
    """`[data.source_color]`: how far the source's colours move, each factor from [1 - x, 1 + x]."""

    brightness: float = Field(0.0, ge=0, le=1)
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)


class DataSettings(_Table):
    """`[data]`, less the settings of the source it names."""

    source: str = "side_by_side"
    root: str | None = None
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    jitter: bool = True
    load_size: int | None = Field(None, ge=4, le=LARGEST)
    crop_size: int = Field(256, ge=4, le=LARGEST)
    test_size: int | None = Field(None, ge=4, le=LARGEST)
    resize: bool = True
    mirror: bool = True
    rotate: bool = False
    source_color: ColorSettings = ColorSettings()
    workers: int | None = Field(None, ge=0, le=256)
    keep_mb: int | None = Field(None, ge=0)


class TrainSettings(_Table):
    """`[train]`."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(1, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    decay_from: float | None = Field(None, ge=0, lt=1)
    decay_every: float = Field(0.25, gt=0, le=1)
    decay_factor: float = Field(0.1, gt=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    precision: Precision = "auto"
    capture: bool = True
    compile: bool = False
    log_every: int = Field(50, ge=1)
    sample_every: int = Field(1000, ge=1)
    sample_count: int = Field(4, ge=1, le=64)
    validate_every: int | None = Field(None, ge=0)
    best_by: str | None = None
    checkpoint_every: int = Field(5000, ge=1)
    keep_checkpoints: int = Field(2, ge=1)


class InferenceSettings(_Table):
    """`[inference]`: how the finished model is used; the bundle carries it."""

    statistics: Literal["image", "running"] = "image"
    dropout: bool = True


class CompareSettings(_Table):
    """`[compare]`: what `img2img compare` makes of the recipe; a run has no use for it."""

    seeds: int = Field(3, ge=1, le=1000)
    metrics: tuple[str, ...] = ()
    judge: str | None = None
    vary: dict[str, tuple[Any, ...]] = {}


@dataclass(frozen=True)
class Choice:
    """A component named in a recipe, and all of its settings, defaults included."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossChoice(Choice):
    """An entry of `[[losses]]`."""

    weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A whole, valid recipe: defaults filled in, every name known to the registry.

    Without `metrics`, validation computes those that suit the task.
    `where` gives file and line of a key, for what only shows when components are built.
    """

    name: str
    description: str
    preset: str
    requires: tuple[str, ...]
    task: Choice
    method: Choice
    data: DataSettings
    source: Choice
    generator: Choice
    discriminator: Choice | None
    conditional: bool
    losses: tuple[LossChoice, ...]
    metrics: tuple[Choice, ...]
    train: TrainSettings
    inference: InferenceSettings
    compare: CompareSettings = field(compare=False, repr=False)
    where: Callable[[KeyPath], str] = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values in the shape of its file; what is not set is left out.

        So is `[compare]`, which is about more than one run.
        """
        tables: dict[str, Any] = {"name": self.name}
        if self.description:
            tables["description"] = self.description
        if self.preset:
            tables["preset"] = self.preset
        if self.requires:
            tables["requires"] = list(self.requires)
        data = self.data.model_dump(exclude={"source_color"})
        color = self.data.source_color.model_dump()
        tables["task"] = {"name": self.task.name, **self.task.settings}
        tables["method"] = {"name": self.method.name, **self.method.settings}
        tables["data"] = {**data, **self.source.settings}
        if any(color.values()):
            tables["data"]["source_color"] = color
        tables["generator"] = {"name": self.generator.name, **self.generator.settings}
        if self.discriminator is not None:
            tables["discriminator"] = {
                "name": self.discriminator.name,
                "conditional": self.conditional,
                **self.discriminator.settings,
            }
        tables["losses"] = [
            {"name": loss.name, "weight": loss.weight, **loss.settings} for loss in self.losses
        ]
        if self.metrics:
            tables["metrics"] = [{"name": m.name, **m.settings} for m in self.metrics]
        tables["train"] = self.train.model_dump()
        tables["inference"] = self.inference.model_dump()
        plain: dict[str, Any] = to_jsonable_python(_without_none(tables))
        return plain

    def to_toml(self) -> str:
        """The recipe as a file."""
        return tomli_w.dumps(self.to_dict())


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value


assert KINDS["source"].reserved == frozenset(DataSettings.model_fields), "component.py lists them"
