"""timm's feature extractors with the weights that they are given."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from img2img.backbones.lookup import size_options
from img2img.hub import first_sentence, quiet_hub


class WeightsError(ValueError):
    """The hub's weights of a network cannot be had."""


def create_features(
    name: str,
    indices: Sequence[int],
    *,
    in_channels: int,
    image_size: int | None,
    pretrained: bool | str,
) -> Any:
    """timm's feature extractor with its weights.

    Raises:
        ValueError: see `Backbone`.
    """
    import timm

    options = {**size_options(name, image_size), "in_chans": in_channels}
    wanted: dict[str, Any] = {"features_only": True, "out_indices": list(indices)}
    if pretrained is False:
        return timm.create_model(name, pretrained=False, **wanted, **options)
    if pretrained is True:
        return _from_hub(name, wanted | options)
    state = _read(pretrained)
    _check_fit(name, pretrained, state, options)
    overlay = {"state_dict": dict(state)}
    with _without_remarks():
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **wanted, **options
        )
    for module in network.modules():
        for config in ("pretrained_cfg", "default_cfg"):
            # timm keeps the whole file there, and a copy of the network would copy it.
            getattr(module, config, {}).pop("state_dict", None)
    return network


def _from_hub(name: str, options: dict[str, Any]) -> Any:
    import timm

    if not timm.is_model_pretrained(name):
        raise WeightsError(
            f"timm has no weights for backbone {name!r}: choose another backbone, or give a file "
            f'of weights: pretrained = "path/to/model.safetensors"'
        )
    try:
        with _without_remarks(), quiet_hub():
            return timm.create_model(name, pretrained=True, **options)
    # Without weights the same call has just worked, so this is about fetching or reading them; what
    # it raises depends on the library behind the hub.
    except Exception as error:
        raise WeightsError(
            f"the weights of backbone {name!r} cannot be fetched from the hub "
            f"({type(error).__name__}: {first_sentence(error)}); where there is no network, fetch "
            f'them elsewhere and give the file: pretrained = "path/to/model.safetensors"'
        ) from error


def _read(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file, by name.

    Raises:
        ValueError: it is missing, or holds something else.
    """
    from timm.models import load_state_dict

    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"pretrained: there is no file {path}; it is true for weights from the hub, or the "
            f"path of a .safetensors or .pth file"
        )
    try:
        state: dict[str, Tensor] = load_state_dict(str(file), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()) or not state:
            raise TypeError("it should hold named tensors")
    # A damaged file makes the readers raise nearly anything.
    except Exception as error:
        raise ValueError(
            f"pretrained: {path} cannot be read as weights ({type(error).__name__}: "
            f"{first_sentence(error)}); expected a .safetensors file, or a .pth file of tensors "
            f"alone"
        ) from error
    return state


def _check_fit(name: str, path: str, state: dict[str, Tensor], options: dict[str, Any]) -> None:
    """Load a file into the whole network: only there does timm see to it that all names are met.

    Raises:
        ValueError: it is of another network.
    """
    import timm

    def load(weights: dict[str, Tensor], **changed: Any) -> None:
        overlay = {"state_dict": weights} | changed
        with _without_remarks():
            timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, **changed, **options
            )

    try:
        load(dict(state))
    # Whatever timm raises, this may only be the classifier, which is not used: missing, or of other
    # classes. If it is more, the second attempt says so.
    except Exception:
        config = timm.get_pretrained_cfg(name)
        named = (config and config.classifier) or ()
        heads = (named,) if isinstance(named, str) else tuple(named)
        bare = {k: v for k, v in state.items() if k.rpartition(".")[0] not in heads}
        try:
            load(bare, num_classes=0)
        # A model's own conversion of older files may stumble over strange ones in any way.
        except Exception as error:
            lines = [" ".join(line.split()) for line in str(error).splitlines()]
            reason = "; ".join(first_sentence(line, 100) for line in lines[1:3] or lines[:1])
            raise ValueError(
                f"pretrained: the weights in {path} are not those of backbone {name!r} ({reason}); "
                f"set backbone to the network they belong to"
            ) from error


@contextmanager
def _without_remarks() -> Iterator[None]:
    """No warnings of the layers that a file has and a feature extractor does without."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
