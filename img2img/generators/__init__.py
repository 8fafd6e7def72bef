"""Generators: source (B, in_channels, H, W) in [-1, 1] to output (B, out_channels, H, W)."""

from img2img.generators.encoder_decoder import EncoderDecoder
from img2img.generators.resnet import ResNet
from img2img.generators.timm_unet import TimmUNet
from img2img.generators.unet import UNet

__all__ = ["EncoderDecoder", "ResNet", "TimmUNet", "UNet"]
