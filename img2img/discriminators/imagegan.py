"""ImageGAN: one logit for the whole image."""

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


class ImageGAN(nn.Module):
    """One score for the whole image: halved down to a few pixels, then one convolution over them.

    Shape: (B, in_channels, image_size, image_size) -> (B, 1, 1, 1) logits. Source: arXiv
    1611.07004, section 4.4 ("ImageGAN"); the paper gives no layers for it, so these follow the
    PatchGAN's (4x4, stride 2, widths doubling up to eight times the first) until at most 7 pixels
    are left.

    Args:
        in_channels: channels of what it judges.
        image_size: height and width of the training crops, in pixels.
        width: channels after the first layer; 64 in the paper's other discriminators.
        norm: normalisation in every layer but the first and the last.
        init: how weights are drawn: the paper's N(0, 0.02), xavier, kaiming or orthogonal.

    Raises:
        ValueError: images below 8 pixels; in forward, images of another size than `image_size`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        image_size: int = 256,
        width: int = 64,
        norm: Norm = "batch",
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_positive(width=width)
        if image_size < 8:
            raise ValueError(f"imagegan needs images of at least 8 pixels, not {image_size}")
        self.image_size = image_size
        modules: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels, left, i = width, image_size // 2, 1
        while left > 7:
            wider = width * min(2**i, 8)
            modules += [
                nn.Conv2d(channels, wider, 4, 2, 1, bias=conv_bias(norm)),
                norm_layer(norm, wider),
                nn.LeakyReLU(0.2),
            ]
            channels, left, i = wider, left // 2, i + 1
        modules.append(nn.Conv2d(channels, 1, left))
        self.layers = nn.Sequential(*modules)
        init_weights(self, init)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this ImageGAN judges whole images of {self.image_size}x{self.image_size} pixels, "
                f"not {spatial(images)}"
            )
        logits: Tensor = self.layers(images)
        return logits
