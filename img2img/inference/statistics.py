"""Normalisation by an image's own statistics, which the tiles of one image can share."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from img2img.inference.moment import Moment

Norm = nn.BatchNorm2d | nn.SyncBatchNorm | nn.InstanceNorm2d | nn.GroupNorm


class ImageNorm(nn.Module):
    """Normalises by the statistics of each image alone, or by those that its tiles share.

    Stands for a batch norm as it is with a training batch of one, for an instance norm and for a
    group norm. Shape: (B, C, H, W), the same out.

    Args:
        norm: the layer that it replaces; its weights are taken over.
        layer: which of the network's norms this is.
        moment: tells whether tiles share statistics.
    """

    def __init__(self, norm: Norm, layer: int, moment: Moment) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.layer, self.moment = layer, moment
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
        # timm's norms hold what follows them: dropout, then an activation.
        follows = (getattr(norm, name, None) for name in ("drop", "act"))
        self.after = nn.Sequential(*(m for m in follows if isinstance(m, nn.Module)))

    def forward(self, features: Tensor) -> Tensor:
        normed: Tensor = self.after(self._normalise(features))
        return normed

    def _normalise(self, features: Tensor) -> Tensor:
        shared = self.moment.statistics
        if shared is None:
            return self._by_own(features)
        if self.moment.measuring:
            shared[self.layer] = self._measure(features)
        return self._by_given(features, *shared[self.layer])

    def _by_own(self, features: Tensor) -> Tensor:
        if self.groups is not None:
            return F.group_norm(features, self.groups, self.weight, self.bias, self.eps)
        if features.shape[-1] * features.shape[-2] == 1:
            # A single value is its own mean; torch refuses to normalise it.
            zeros = torch.zeros_like(features)
            return zeros if self.bias is None else zeros + self.bias.view(1, -1, 1, 1)
        if features.device.type != "cpu" or torch.is_grad_enabled():
            return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)
        # On a CPU features are channels-last, and there instance_norm takes three times as long as
        # these two. batch_norm adds pixel after pixel, which is off by 5e-4 for a megapixel.
        if features.dtype == torch.float32:
            return self._by_hand(features)
        alone = (
            F.batch_norm(image[None], None, None, self.weight, self.bias, True, 0.0, self.eps)
            for image in features
        )
        return next(alone) if len(features) == 1 else torch.cat(list(alone))

    def _by_hand(self, features: Tensor) -> Tensor:
        centered = features - features.mean((2, 3), keepdim=True)
        variance = centered.square().mean((2, 3), keepdim=True)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.view(1, -1, 1, 1)
        centered.mul_(scale)
        return centered if self.bias is None else centered.add_(self.bias.view(1, -1, 1, 1))

    def _measure(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) over all patches together."""
        channels = features.shape[1]
        groups = self.groups or channels
        grouped = features.float().transpose(0, 1).reshape(groups, -1)
        variance, mean = torch.var_mean(grouped, dim=1, unbiased=False)
        each = channels // groups
        return mean.repeat_interleave(each), variance.repeat_interleave(each)

    def _by_given(self, features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(features, mean, variance, self.weight, self.bias, False, 0.0, self.eps)


def is_own(norm: nn.Module, statistics: str) -> TypeGuard[Norm]:
    """Whether a norm uses an image's own statistics under a policy, and `ImageNorm` can do that.

    A subclass with a forward of its own does what only it knows, unless it is one of timm's, which
    hold their activation in `act`.
    """
    if isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return statistics == "image"
    if isinstance(norm, nn.InstanceNorm2d):
        return not norm.track_running_stats and type(norm).forward is nn.InstanceNorm2d.forward
    if isinstance(norm, nn.GroupNorm):
        return type(norm).forward is nn.GroupNorm.forward or hasattr(norm, "act")
    return False
