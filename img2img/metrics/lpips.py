"""Distance as a trained network sees it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from img2img.errors import MetricError
from img2img.metrics.pixel import MeanOverImages
from img2img.metrics.weights import load_network, refuse_misfit

Net = Literal["alex", "vgg", "squeeze"]
# torchvision's name of each, and the pixels below which one of its poolings has nothing left.
NETS: dict[Net, tuple[str, int]] = {
    "alex": ("alexnet", 31),
    "vgg": ("vgg16", 16),
    "squeeze": ("squeezenet1_1", 17),
}


class LPIPS(MeanOverImages):
    """Learned perceptual distance of images, 0 for equal ones, through torchmetrics.

    Source: Zhang et al., arXiv 1801.03924, version 0.1: its weights of features come with
    torchmetrics, those of the network are torchvision's for ImageNet. Raises MetricError where they
    cannot be had, and for images that are too small for the network (31, 16 or 17 pixels).

    Args:
        net: AlexNet, whose distances are the ones usually given, VGG-16 or SqueezeNet 1.1.
        weights: torchvision's weights of that network as a .pth or .safetensors file; without, they
            are downloaded once (alex 233 MB, vgg 528 MB, squeeze 5 MB).
    """

    name, higher_is_better = "lpips", False

    def __init__(self, *, net: Net = "alex", weights: str | None = None) -> None:
        super().__init__()
        self._net, self._network = net, _load(net, weights)

    def to(self, device: torch.device) -> LPIPS:
        """Move the network."""
        self._network.to(device)
        return self

    def of_each(self, output: Tensor, target: Tensor) -> Tensor:
        least = NETS[self._net][1]
        if min(output.shape[-2:]) < least:
            raise MetricError(
                f"lpips with {self._net} needs images of {least} pixels or more, and these have "
                f"{output.shape[-1]} x {output.shape[-2]}"
            )
        with torch.no_grad():
            values: Tensor = self._network(output, target, normalize=True)
        return values.flatten()


def _load(net: Net, weights: str | None) -> nn.Module:
    """torchmetrics' network with torchvision's weights.

    Raises:
        MetricError: the weights cannot be had, or are another network's.
    """
    import torchvision

    name = NETS[net][0]
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    return load_network(_network, net, weights, url, f"torchvision's {name}")


def _network(net: Net, weights: dict[str, Tensor]) -> nn.Module:
    """torchmetrics' network, filled without a download of its own and without random numbers."""
    from torchmetrics.functional.image import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        network = lpips._NoTrainLpips(net=net, pretrained=False, pnet_rand=True)
    # Two constants that are no part of its state, and that not every torch gives values there.
    network.scaling_layer = lpips.ScalingLayer()
    file = Path(lpips.__file__).parent / "lpips_models" / f"{net}.pth"
    linear = torch.load(file, map_location="cpu", weights_only=True)
    state = {}
    for key in network.state_dict():
        # `lins` holds the same layers again, and the slices are torchvision's `features`.
        of_linear = re.sub(r"^lins\.(\d+)\.", r"lin\1.", key)
        of_features = re.sub(r"^net\.slices?\.?\d+\.", "features.", key)
        given = linear.get(of_linear, weights.get(of_features))
        if given is not None:
            state[key] = given
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise refuse_misfit(f"torchvision's {NETS[net][0]}", error) from error
    return network.float()
