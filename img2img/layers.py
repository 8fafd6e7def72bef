"""Pieces that several networks share: norms, initial weights and last activations by name."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "instance", "group", "sync", "none"]
Init = Literal["normal", "xavier", "kaiming", "orthogonal"]
Activation = Literal["tanh", "softmax", "none"]

# Channels in a group of group norm, of which arXiv 1803.08494 tries both a fixed size and a fixed
# number. A fixed number leaves narrow layers one channel a group, which is instance norm.
GROUP_SIZE = 16

# Pixels in a batch of maps up to which a transposed convolution is quicker as a product of
# matrices: measured with 512 to 1024 channels on two cores with avx512_bf16, for batches 1 and 4.
FEW_PIXELS = 256


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also takes a single value a channel. Shape: (B, C, H, W), same out.

    With one 1x1 map in the batch the normalised value is exactly 0, so the output is the bias
    alone. That is what the paper's erratum (arXiv 1611.07004v3, section 6.1) describes for batch
    size 1 in the innermost layer; torch's own class raises instead.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == self.num_features:
            return input * 0 + self.bias.view(1, -1, 1, 1)
        return super().forward(input)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation over the batches of all processes. Shape: (B, C, H, W), same out.

    In a single process it is `BatchNorm2d`, its single value a channel included. torch's own runs
    on GPUs alone, waits for them, has no second derivative and takes the processes' losses for
    equally heavy; so the same is computed here.

    Attributes:
        share: of this process in a step whose pairs cannot be split evenly: its pairs times the
            number of processes / all pairs. None where all have as many. With 0 the batch is only
            there so that the process takes part, and counts for nothing.
    """

    share: float | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.device.type == "meta" or _process_count() == 1:
            if self.training and input.numel() == self.num_features:
                return input * 0 + self.bias.view(1, -1, 1, 1)
            # Past torch's own, which refuses what is on no GPU.
            return super(nn.SyncBatchNorm, self).forward(input)
        return self._over_all(input)

    def _over_all(self, input: Tensor) -> Tensor:
        share = 1.0 if self.share is None else self.share
        counts = float(share > 0)
        values = input if input.dtype == torch.float64 else input.float()
        own = values.sum((0, 2, 3)) * counts
        size = own.new_full((1,), counts * input.numel() / self.num_features)
        total: Tensor = _SumOverProcesses.apply(torch.cat([own, size]), share)
        # Mean first, then squares of what is left: their difference would lose small variances.
        count = total[-1].detach()
        mean = total[:-1] / count
        centered = values - mean.view(1, -1, 1, 1)
        squares = centered.square().sum((0, 2, 3)) * counts
        variance = _SumOverProcesses.apply(squares, share) / count
        self._note(mean.detach(), variance.detach(), count)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normed: Tensor = centered * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normed.to(input.dtype)

    def _note(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Take a step's statistics over `count` values into the running ones, unless of one."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        some = (count > 1).to(self.running_mean.dtype)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        self.num_batches_tracked.add_(count > 1)
        taken = (
            self.momentum
            if self.momentum is not None
            else 1 / self.num_batches_tracked.clamp_min(1).to(some.dtype)
        )
        taken = taken * some
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), taken)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), taken)


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is that of the processes' weighted losses.

    Each process differentiates its own loss L and weighs what comes out with its share s. What it
    gets back for a tensor that all use must be of sum(s * L) therefore, with its own s taken out.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, share: float) -> Tensor:
        ctx.share = share
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        share = ctx.share
        total: Tensor = _SumOverProcesses.apply(gradients[0] * share, share)
        return total * (1 / share if share else 0.0), None


def _process_count() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """The normalisation layer of that name for `channels` channels.

    `instance` has no weights of its own, as in the common PyTorch port; `group` has groups of 16
    channels (arXiv 1803.08494); `sync` is batch norm over all processes of a distributed run, and
    plain batch norm where there is one.

    Raises:
        ValueError: `norm` is not one of the names.
    """
    if norm == "batch":
        return BatchNorm2d(channels)
    if norm == "sync":
        return SyncBatchNorm(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "group":
        groups = max(1, channels // GROUP_SIZE)
        while channels % groups:
            groups -= 1
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm!r} is not one of {', '.join(get_args(Norm))}")


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that trains quickly on small maps, too. Shape: as torch's own.

    In bfloat16 on a CPU, a map of a few pixels with many channels spends its time on arranging
    weights. There it is computed as what it is, a product of matrices whose columns are added up
    where they overlap; the result differs by rounding alone.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        # Asked first, because tracing for export must not decide by the size of the images. Without
        # gradients it is inference, whose results must not depend on the batch.
        if not (_trains_in_bfloat16_on_cpu(input) and self._is_small(input)) or output_size:
            return super().forward(input, output_size)
        batch, channels, height, width = input.shape
        assert not isinstance(self.padding, str)
        pixels = input.permute(0, 2, 3, 1).reshape(-1, channels)
        columns = pixels @ self.weight.reshape(channels, -1)
        size = tuple(
            (side - 1) * stride - 2 * padding + kernel
            for side, stride, padding, kernel in zip(
                (height, width), self.stride, self.padding, self.kernel_size, strict=True
            )
        )
        output = F.fold(
            columns.view(batch, height * width, -1).transpose(1, 2),
            size,
            self.kernel_size,
            padding=self.padding,
            stride=self.stride,
        )
        return output if self.bias is None else output + self.bias.view(1, -1, 1, 1)

    def _is_small(self, input: Tensor) -> bool:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.output_padding == (0, 0)
        return plain and input.numel() <= FEW_PIXELS * self.in_channels


def _trains_in_bfloat16_on_cpu(input: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def conv_bias(norm: Norm) -> bool:
    """Whether a convolution before this norm keeps a bias: batch norm's own bias makes it idle."""
    return norm not in ("batch", "sync")


def output_activation(activation: Activation) -> nn.Module:
    """What a generator ends in: `tanh` for images, `softmax` for class probabilities, or `none`.

    Raises:
        ValueError: `activation` is not one of the names.
    """
    if activation == "tanh":
        return nn.Tanh()
    if activation == "softmax":
        return nn.Softmax(dim=1)
    if activation == "none":
        return nn.Identity()
    raise ValueError(f"activation {activation!r} is not one of {', '.join(get_args(Activation))}")


def init_weights(network: nn.Module, init: Init = "normal") -> None:
    """Draw the weights of convolutions and linear layers; biases become 0.

    `normal` is the paper's N(0, 0.02) (arXiv 1611.07004, section 6.2); the scales of batch norms
    are then N(1, 0.02), as in the authors' code, and else 1. `xavier` (Glorot and Bengio 2010),
    `kaiming` (arXiv 1502.01852) and `orthogonal` (arXiv 1312.6120) keep the gain of their authors;
    the common PyTorch port multiplies xavier and orthogonal by 0.02.

    Raises:
        ValueError: `init` is not one of the names.
    """
    if init not in get_args(Init):
        raise ValueError(f"init {init!r} is not one of {', '.join(get_args(Init))}")
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            if init == "normal":
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif init == "xavier":
                nn.init.xavier_normal_(module.weight)
            elif init == "kaiming":
                nn.init.kaiming_normal_(module.weight)
            else:
                nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and init == "normal":
            nn.init.normal_(module.weight, 1.0, 0.02)


def check_positive(**values: float) -> None:
    """Raise a ValueError that names the first value that is not above zero."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def spatial(images: Tensor) -> str:
    """`HxW` of a batch, for messages."""
    return f"{images.shape[-2]}x{images.shape[-1]}"
