"""The network behind FID and KID."""

from __future__ import annotations

import importlib.util
import io
from typing import Literal

import torch
from torch import Tensor, nn

from img2img.errors import MetricError
from img2img.metrics.weights import load_network, refuse_misfit

Width = Literal[64, 192, 768, 2048]
# Converted from the TensorFlow graph of 2015 that the first FID was computed with.
URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
WHAT = "FID's Inception"


def load_inception(weights: str | None, features: Width) -> nn.Module:
    """torch-fidelity's Inception: images (B, 3, H, W) uint8 -> features (B, features) float32.

    Images are resized to 299 pixels as the original does, without antialiasing.

    Args:
        weights: a file; None is torch-fidelity's download.
        features: how many, which says after which layer: 2048 are the usual ones.

    Raises:
        MetricError: torch-fidelity is not installed, or the weights cannot be had.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise MetricError(
            "the network is torch-fidelity's, which is not installed: pip install img2img[scores]"
        )
    return load_network(_network, str(features), weights, URL, WHAT)


def _network(features: str, weights: dict[str, Tensor]) -> nn.Module:
    from torchmetrics.image.fid import NoTrainInceptionV3

    # Its own reading would run what is in the file, so it gets the tensors, packed anew.
    packed = io.BytesIO()
    torch.save(weights, packed)
    packed.seek(0)
    try:
        network: nn.Module = NoTrainInceptionV3(
            "inception-v3-compat",
            [features],
            packed,  # type: ignore[arg-type]  # it is handed to torch.load, which takes both
            antialias=False,
        )
    except RuntimeError as error:
        raise refuse_misfit(WHAT, error) from error
    # torchmetrics would find it out with an image of random numbers.
    network.num_features = int(features)  # type: ignore[assignment]  # torch declares tensors and modules
    return network
