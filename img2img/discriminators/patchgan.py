"""PatchGAN discriminators: one logit per overlapping patch."""

from __future__ import annotations

from torch import Tensor, nn

from img2img.layers import (
    Init,
    Norm,
    check_positive,
    conv_bias,
    init_weights,
    norm_layer,
    spatial,
)


class PatchGAN(nn.Module):
    """PatchGAN with a settable number of strided layers.

    Shape: (B, in_channels, H, W) -> (B, 1, h, w) logits; 256 pixels give 30x30 with three layers.
    Receptive fields of 1 to 5 strided layers: 16, 34, 70, 142, 286 pixels. Source: arXiv
    1611.07004, section 6.1.2, with stride 1 in the last two convolutions as in the authors' code:
    stride 2 everywhere, as the text says, does not give those fields.

    Args:
        in_channels: channels of what it judges.
        width: channels after the first layer; 64 in the paper.
        layers: convolutions of stride 2.
        norm: normalisation in every layer but the first and the last.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.

    Raises:
        ValueError: fewer than one layer; in forward, images too small to leave an output.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "batch",
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_positive(width=width, layers=layers)
        # h = H / 2**layers - 2 must be at least 1.
        self.smallest = 3 * 2**layers
        modules: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for i in range(1, layers + 1):
            wider = width * min(2**i, 8)
            stride = 2 if i < layers else 1
            modules += [
                nn.Conv2d(channels, wider, 4, stride, 1, bias=conv_bias(norm)),
                norm_layer(norm, wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        modules.append(nn.Conv2d(channels, 1, 4, 1, 1))
        self.layers = nn.Sequential(*modules)
        init_weights(self, init)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"images of {spatial(images)} pixels are too small for this PatchGAN, which needs "
                f"at least {self.smallest}x{self.smallest}: use larger crops, or a discriminator "
                f"that sees less"
            )
        logits: Tensor = self.layers(images)
        return logits


class PatchGAN16(PatchGAN):
    """16x16 PatchGAN: C64-C128 (arXiv 1611.07004, section 6.1.2).

    Shape: (B, in_channels, H, W) -> (B, 1, h, w) logits, each seeing 16x16 pixels.

    Args:
        in_channels: channels of what it judges.
        width: channels after the first layer; 64 in the paper.
        norm: normalisation in every layer but the first and the last.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.
    """

    def __init__(
        self, in_channels: int, *, width: int = 64, norm: Norm = "batch", init: Init = "normal"
    ) -> None:
        super().__init__(in_channels, width=width, layers=1, norm=norm, init=init)


class PatchGAN70(PatchGAN):
    """70x70 PatchGAN, the paper's default: C64-C128-C256-C512 (arXiv 1611.07004, section 6.1.2).

    Shape: (B, in_channels, H, W) -> (B, 1, h, w) logits, each seeing 70x70 pixels.

    Args:
        in_channels: channels of what it judges.
        width: channels after the first layer; 64 in the paper.
        norm: normalisation in every layer but the first and the last.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.
    """

    def __init__(
        self, in_channels: int, *, width: int = 64, norm: Norm = "batch", init: Init = "normal"
    ) -> None:
        super().__init__(in_channels, width=width, layers=3, norm=norm, init=init)


class PatchGAN286(PatchGAN):
    """286x286 PatchGAN: C64-C128-C256-C512-C512-C512 (arXiv 1611.07004, section 6.1.2).

    Shape: (B, in_channels, H, W) -> (B, 1, h, w) logits, each seeing 286x286 pixels.

    Args:
        in_channels: channels of what it judges.
        width: channels after the first layer; 64 in the paper.
        norm: normalisation in every layer but the first and the last.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.
    """

    def __init__(
        self, in_channels: int, *, width: int = 64, norm: Norm = "batch", init: Init = "normal"
    ) -> None:
        super().__init__(in_channels, width=width, layers=5, norm=norm, init=init)
