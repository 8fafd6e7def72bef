"""Metrics: how near outputs are to their targets."""

from img2img.metrics.base import Metric
from img2img.metrics.pixel import L1, PSNR, SSIM

__all__ = ["L1", "PSNR", "SSIM", "Metric"]
