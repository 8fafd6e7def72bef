"""PixelGAN: one logit per pixel."""

from __future__ import annotations

from torch import Tensor, nn

from img2img.layers import Init, Norm, check_positive, conv_bias, init_weights, norm_layer


class PixelGAN(nn.Module):
    """1x1 discriminator: judges every pixel's colour by itself; C64-C128, all 1x1.

    Shape: (B, in_channels, H, W) -> (B, 1, H, W) logits. Source: arXiv 1611.07004, section 6.1.2.

    Args:
        in_channels: channels of what it judges.
        width: channels after the first layer; 64 in the paper.
        norm: normalisation in the second layer.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.
    """

    def __init__(
        self, in_channels: int, *, width: int = 64, norm: Norm = "batch", init: Init = "normal"
    ) -> None:
        super().__init__()
        check_positive(width=width)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width * 2, 1, bias=conv_bias(norm)),
            norm_layer(norm, width * 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width * 2, 1, 1),
        )
        init_weights(self, init)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits
