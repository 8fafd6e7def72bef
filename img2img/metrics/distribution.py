"""Metrics that compare outputs and targets as two sets: no image has a score of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from img2img.errors import MetricError
from img2img.metrics import inception
from img2img.metrics.inception import Width


class FID:
    """Frechet distance of outputs and targets in the features of Inception, through torchmetrics.

    Means and covariances are of float64. Below one image more than there are features no covariance
    has full rank, and the number says more about how many images there were than about them; so
    fewer are refused unless `least` allows them. Numbers compare only over equally many images.

    Source: Heusel et al., arXiv 1706.08500. Network, weights and resizing are those of
    torch-fidelity and of the original. Needs the extra `img2img[scores]`.

    Args:
        features: width of the layer whose features are compared: 2048, or an earlier layer's 64,
            192 or 768, which need fewer images and whose numbers are others.
        least: refuse fewer images than this; by default one more than `features`.
        weights: the network's as a file; without, they are downloaded once (91 MB).
    """

    of: Literal["images", "classes"] = "images"
    for_fewer = "kid"

    @staticmethod
    def least_of(settings: Mapping[str, Any]) -> int:
        """How many images it needs with these settings, known before its network is read."""
        least = settings.get("least")
        return int(settings.get("features", 2048)) + 1 if least is None else int(least)

    def __init__(
        self, *, features: Width = 2048, least: int | None = None, weights: str | None = None
    ) -> None:
        self.least = self.least_of({"features": features, "least": least})
        if self.least < 2:
            raise ValueError(f"least must be 2 or more, for a covariance, not {least}")
        from torchmetrics.image.fid import FrechetInceptionDistance

        self.scores = {"fid": False}
        self._count = 0
        self._network = inception.load_inception(weights, features)
        self._distance = FrechetInceptionDistance(_AsGiven(self._network.num_features))

    def to(self, device: torch.device) -> FID:
        """Move the network; the sums stay, because not every device has their float64."""
        self._network.to(device)
        return self

    def update(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            self._distance.update(self._network(_levels(output)).cpu(), real=False)
            self._distance.update(self._network(_levels(target)).cpu(), real=True)
        self._count += len(output)
        return {}

    def compute(self) -> dict[str, float]:
        if self._count < self.least:
            raise MetricError(
                f"fid needs {self.least} images or more, and there are {self._count}: take kid, "
                f"which suits few images; or set least = {max(2, self._count)} for a number that "
                f"compares only with others over as many images"
                if self._count > 1
                else f"fid needs {self.least} images or more, and there are {self._count}"
            )
        return {"fid": float(self._distance.compute())}


class KID:
    """Squared maximum mean discrepancy of outputs and targets in the features of Inception.

    Unbiased, so that its mean does not depend on how many images there are, and it can come out
    below 0. With no more images than `subset_size` it is computed once over all of them, else it
    is the mean over random subsets, which are always the same. The kernel, (x . y / features + 1)
    cubed, is torchmetrics', in float64.

    Source: Binkowski et al., arXiv 1801.01401. Network, weights and resizing as for `fid`. Needs
    the extra `img2img[scores]`. Raises MetricError for fewer than 2 images.

    Args:
        features: width of the layer whose features are compared: 2048, 768, 192 or 64.
        subsets: how many subsets.
        subset_size: images in each.
        seed: of the subsets.
        weights: the network's as a file; without, they are downloaded once (91 MB).
    """

    of: Literal["images", "classes"] = "images"
    least = 2

    def __init__(
        self,
        *,
        features: Width = 2048,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        weights: str | None = None,
    ) -> None:
        if subsets < 1 or subset_size < 2:
            raise ValueError("subsets must be 1 or more, and subset_size 2 or more")
        self.scores = {"kid": False}
        self._subsets, self._subset_size, self._seed = subsets, subset_size, seed
        self._network = inception.load_inception(weights, features)
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def to(self, device: torch.device) -> KID:
        """Move the network."""
        self._network.to(device)
        return self

    def update(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            self._outputs.append(self._network(_levels(output)).cpu())
            self._targets.append(self._network(_levels(target)).cpu())
        return {}

    def compute(self) -> dict[str, float]:
        from torchmetrics.image.kid import poly_mmd

        count = sum(map(len, self._outputs))
        if count < self.least:
            raise MetricError(f"kid needs 2 images or more, and there are {count}")
        outputs, targets = (torch.cat(f).double() for f in (self._outputs, self._targets))
        if count <= self._subset_size:
            return {"kid": float(poly_mmd(targets, outputs))}
        # torchmetrics' own subsets come from the random state that a run goes on with.
        random = torch.Generator().manual_seed(self._seed)
        values = []
        for _ in range(self._subsets):
            a, b = (torch.randperm(count, generator=random)[: self._subset_size] for _ in "ab")
            values.append(poly_mmd(targets[a], outputs[b]))
        return {"kid": float(torch.stack(values).mean())}


class _AsGiven(nn.Module):
    """Hands features on, in the place where torchmetrics has the network that makes them."""

    def __init__(self, num_features: Any) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def _levels(images: Tensor) -> Tensor:
    """[0, 1] as uint8, rounded: what is nearly a level should not become the one below."""
    return (images * 255).round().to(torch.uint8)
