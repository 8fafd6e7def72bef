"""Which network a set of named tensors is: their names and shapes say all of it.

The layout is that of junyanz/pytorch-CycleGAN-and-pix2pix (models/networks.py), where a network is
a sequence and a tensor's name counts its layers; its U-Net holds each level inside the one above.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from img2img.errors import ModelFileError
from img2img.importing.reading import listed
from img2img.layers import Norm

NORM_WEIGHTS = ("weight", "bias")
NORM_STATISTICS = ("running_mean", "running_var")
COUNT = "num_batches_tracked"
UNET_LEVEL = re.compile(r"model\.model\.(1\.model\.(?:3\.model\.)*)?\d+\.")
RESNET_BLOCK = re.compile(r"model\.(\d{1,3})\.conv_block\.")
FIRST_BLOCK = 10
# A U-Net of one level is none, and one deeper than this would want images above 65536 pixels.
DEPTHS = range(2, 17)


@dataclass(frozen=True)
class Layer:
    """A convolution, by its names there and here, and whether a norm follows it.

    Attributes:
        conv: its name in the checkpoint.
        our_conv: its name in our network.
        normed: a norm is the next layer, there and here.
    """

    conv: str
    our_conv: str
    normed: bool = True

    @property
    def norm(self) -> str:
        """The norm's name in the checkpoint."""
        return _next(self.conv)

    @property
    def our_norm(self) -> str:
        """The norm's name in our network."""
        return _next(self.our_conv)


@dataclass(frozen=True)
class Architecture:
    """A generator of that project, as its tensors show it.

    Attributes:
        generator: our name for it, `unet` or `resnet`.
        in_channels: of the source.
        out_channels: of the output.
        width: channels after the first layer.
        norm: of the layers; `sync` is `batch`.
        depth: halvings of a U-Net, 0 for a ResNet.
        blocks: of a ResNet, 0 for a U-Net.
        dropout: whether a ResNet was trained with it; a U-Net's tensors do not show it: None.
        layers: in the order they run in; the last one alone always has a bias and no norm.
    """

    generator: str
    in_channels: int
    out_channels: int
    width: int
    norm: Norm
    depth: int
    blocks: int
    dropout: bool | None
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        return f"{_called(self.depth, self.blocks)} and width {self.width} with {_with(self.norm)}"


def recognise(tensors: Mapping[str, Tensor], label: object) -> Architecture:
    """The network that these tensors are the weights of.

    Args:
        tensors: a state dict.
        label: what messages call it, the file.

    Raises:
        ModelFileError: they are another network's, some are missing, or some are too many.
    """
    depth = blocks = 0
    dropout = None
    if levels := [found for name in tensors if (found := UNET_LEVEL.match(name))]:
        depth = max((found[1] or "").count("model.") for found in levels) + 1
        if depth not in DEPTHS:
            raise ModelFileError(f"{label} {_another(tensors)}")
        layers = unet_layers(depth)
    elif numbers := {int(found[1]) for name in tensors if (found := RESNET_BLOCK.match(name))}:
        # Each halving takes three places before the first block.
        if (halvings := max(0, min(numbers) - 4) // 3) != 2:
            raise ModelFileError(
                f"{label} is another network: a ResNet with {halvings} halvings, where that of "
                f"pix2pix and CycleGAN has 2 (pix2pixHD has 4)"
            )
        # By the highest number, so that a block in between can be found missing.
        blocks, dropout = max(numbers) - FIRST_BLOCK + 1, _has_dropout(tensors)
        layers = resnet_layers(blocks, dropout)
    else:
        raise ModelFileError(f"{label} {_another(tensors)}")
    norm = _norm_of(tensors, layers, label)
    what = f"{_called(depth, blocks)} with {_with(norm)}"
    _check_names(tensors, expected_names(layers, norm), _ignored_names(layers, norm), what, label)
    for layer in layers:
        shape = tuple(tensors[f"{layer.conv}.weight"].shape)
        if len(shape) != 4 or not all(shape):
            raise ModelFileError(
                f"{label}: {layer.conv}.weight has shape {shape}, and a convolution's has four "
                f"sides above 0; the file is damaged or another network's"
            )
    first, second, last = (tensors[f"{layers[i].conv}.weight"] for i in (0, 1, -1))
    # A U-Net's last convolution is transposed: its channels come the other way round.
    ends = (last.shape[1], last.shape[0] // 2) if depth else (last.shape[0], last.shape[1])
    # Three layers tell the width, so that one that is off is found to be off.
    votes = Counter((first.shape[0], second.shape[1], ends[1]))
    return Architecture(
        generator="unet" if depth else "resnet",
        in_channels=first.shape[1],
        out_channels=ends[0],
        width=votes.most_common(1)[0][0],
        norm=norm,
        depth=depth,
        blocks=blocks,
        dropout=dropout,
        layers=layers,
    )


def unet_layers(depth: int) -> tuple[Layer, ...]:
    """The layers of a U-Net with `depth` halvings, from the outermost down and up again."""
    down, up = [], []
    inside = "model.model."
    for level in range(depth):
        outermost, innermost = level == 0, level == depth - 1
        # Activations and the level inside are counted, and the outermost begins without one.
        at = 0 if outermost else 1
        normed = not outermost and not innermost
        down.append(Layer(f"{inside}{at}", f"encoder.{level}.{at}", normed))
        at = 3 if outermost or innermost else 5
        up.append(Layer(f"{inside}{at}", f"decoder.{depth - 1 - level}.1", not outermost))
        inside += "1.model." if outermost else "3.model."
    return (*down, *reversed(up))


def resnet_layers(blocks: int, dropout: bool) -> tuple[Layer, ...]:
    """The layers of a ResNet; with `dropout` a block counts one layer more."""
    layers = [Layer(f"model.{at}", f"encoder.{at}") for at in (1, 4, 7)]
    for block in range(blocks):
        inside, ours = f"model.{FIRST_BLOCK + block}.conv_block", f"blocks.{block}"
        layers.append(Layer(f"{inside}.1", f"{ours}.first.1"))
        layers.append(Layer(f"{inside}.{6 if dropout else 5}", f"{ours}.second.1"))
    start = FIRST_BLOCK + blocks
    layers += [Layer(f"model.{start + at}", f"decoder.{at}") for at in (0, 3)]
    return (*layers, Layer(f"model.{start + 7}", "decoder.7", normed=False))


def expected_names(layers: Iterable[Layer], norm: Norm) -> list[str]:
    """The tensors that a whole checkpoint of these layers holds, in their order."""
    *inner, last = layers
    names = []
    for layer in inner:
        names.append(f"{layer.conv}.weight")
        if norm == "instance":
            names.append(f"{layer.conv}.bias")
        if norm == "batch" and layer.normed:
            names += [f"{layer.norm}.{part}" for part in (*NORM_WEIGHTS, *NORM_STATISTICS)]
    return [*names, f"{last.conv}.weight", f"{last.conv}.bias"]


def _ignored_names(layers: Iterable[Layer], norm: Norm) -> set[str]:
    """What a checkpoint may hold besides."""
    if norm == "none":
        return set()
    # torch before 0.4 kept statistics for instance norm that it did not use.
    parts = (COUNT,) if norm == "batch" else (COUNT, *NORM_STATISTICS)
    return {f"{layer.norm}.{part}" for layer in layers if layer.normed for part in parts}


def _norm_of(tensors: Mapping[str, Tensor], layers: Iterable[Layer], label: object) -> Norm:
    """Batch norm has weights and statistics of its own; before instance norm there are biases."""
    *inner, _ = layers
    norms = [layer.norm for layer in inner if layer.normed]
    found = (tensors.get(f"{norm}.weight") for norm in norms)
    weights = any(weight is not None and weight.ndim == 1 for weight in found)
    statistics = any(f"{norm}.{part}" in tensors for norm in norms for part in NORM_STATISTICS)
    if weights and not statistics:
        raise ModelFileError(
            f"{label} is from a changed network and cannot be imported: its norms have weights and "
            f"no running statistics, like a group norm or an instance norm with weights, which "
            f"pytorch-CycleGAN-and-pix2pix does not have"
        )
    if weights:
        return "batch"
    return "instance" if any(f"{layer.conv}.bias" in tensors for layer in inner) else "none"


def _has_dropout(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a block's second convolution comes one place later than it would without."""
    found = Counter(
        name.rpartition(".conv_block.")[2]
        for name, tensor in tensors.items()
        if RESNET_BLOCK.match(name) and tensor.ndim == 4
    )
    return found["6.weight"] > found["5.weight"]


def _check_names(
    tensors: Mapping[str, Tensor],
    expected: list[str],
    ignored: set[str],
    what: str,
    label: object,
) -> None:
    missing = [name for name in expected if name not in tensors]
    known = {*expected, *ignored}
    extra = [name for name in tensors if name not in known]
    if missing:
        also = f" (and there is {listed(extra)}, which it has not)" if extra else ""
        raise ModelFileError(
            f"{label} looks like a {what}, and lacks {listed(missing)}{also}; the file is not "
            f"whole or from a changed network: save the generator's whole state_dict() again, or "
            f"take another checkpoint of that training"
        )
    if extra:
        raise ModelFileError(
            f"{label} looks like a {what}, and holds {listed(extra)}, which it has not; the file "
            f"comes from a changed network and cannot be imported"
        )


def _another(tensors: Mapping[str, Tensor]) -> str:
    """What tensors without any generator's names are."""
    convs = {name for name, tensor in tensors.items() if tensor.ndim == 4}
    if {"model.0.weight", "model.2.weight"} <= convs or {"net.0.weight", "net.2.weight"} <= convs:
        return "is a discriminator; translating needs the generator, *_net_G.pth beside it"
    return (
        f"is another network, neither a U-Net nor a ResNet of pytorch-CycleGAN-and-pix2pix: its "
        f"tensors are {listed(tensors)}"
    )


def _next(name: str) -> str:
    """The layer after one: they are numbered."""
    sequence, _, number = name.rpartition(".")
    return f"{sequence}.{int(number) + 1}"


def _called(depth: int, blocks: int) -> str:
    return f"U-Net of depth {depth}" if depth else f"ResNet of {blocks} blocks"


def _with(norm: Norm) -> str:
    return "no norm" if norm == "none" else f"{norm} norm"
