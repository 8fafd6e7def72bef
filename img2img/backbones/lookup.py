"""What timm has, and what it says of it, found out without a single weight."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from img2img.hub import first_sentence


@dataclass(frozen=True)
class Level:
    """One of the feature maps that a backbone gives.

    Attributes:
        index: timm's number of it.
        channels: of the map.
        reduction: how many times smaller than the image it is, in height and width.
    """

    index: int
    channels: int
    reduction: int


@cache
def backbone_levels(name: str, *, every: bool = False) -> tuple[Level, ...]:
    """The feature maps that timm gives of a network, from the finest to the coarsest.

    Args:
        name: timm's name of the network.
        every: those too that timm leaves out unless asked, such as a ViT's first blocks.

    Raises:
        ValueError: timm has no such network, or it gives no feature maps.
    """
    info = _try_build(name).feature_info
    chosen = range(len(info.info)) if every else info.out_indices
    return tuple(
        Level(index, info.info[index]["num_chs"], info.info[index]["reduction"]) for index in chosen
    )


def _try_build(name: str, **options: Any) -> Any:
    """A feature extractor without values, for looking at.

    Raises:
        ValueError: timm has no such network, or it gives no feature maps.
    """
    import timm

    _check_name(name)
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, features_only=True, **options)
    # A thousand architectures refuse in as many ways.
    except Exception as error:
        if options and isinstance(error, TypeError):
            # An option that it does not take; `size_options` asks for that.
            raise
        raise ValueError(
            f"backbone {name!r} gives no feature maps ({first_sentence(error, 120)}); choose "
            f"another, such as 'resnet34' or 'convnext_tiny'"
        ) from error


def _check_name(name: str) -> None:
    """Raise a ValueError with the nearest names, unless timm has this network."""
    import timm

    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        tags = timm.list_pretrained(f"{architecture}.*")
        if tag and name not in tags:
            near = ", ".join(repr(n) for n in tags) or "none"
            raise ValueError(
                f"timm has no weights {tag!r} for backbone {architecture!r}; there are: {near}"
            )
        return
    near = ", ".join(
        repr(n) for n in difflib.get_close_matches(architecture, timm.list_models(), n=3)
    )
    raise ValueError(
        f"timm has no backbone {name!r}"
        + (
            f"; did you mean {near}?"
            if near
            else "; python -c 'import timm; print(*timm.list_models())' lists them"
        )
    )


@cache
def size_options(name: str, image_size: int | None) -> dict[str, Any]:
    """What to tell a network so that it takes the crops and, if it can be had, any other size."""
    fixed: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    for options in (fixed | {"dynamic_img_size": True}, fixed):
        try:
            _try_build(name, **options)
        except TypeError:
            continue
        return options
    _try_build(name)
    return {}
