"""Metrics: how near outputs are to their targets."""

from img2img.metrics.base import Metric
from img2img.metrics.classes import Accuracy, FCNScore
from img2img.metrics.distribution import FID, KID
from img2img.metrics.histogram import LabHistogram
from img2img.metrics.lpips import LPIPS
from img2img.metrics.pixel import L1, MSSSIM, PSNR, SSIM

__all__ = [
    "FID",
    "KID",
    "L1",
    "LPIPS",
    "MSSSIM",
    "PSNR",
    "SSIM",
    "Accuracy",
    "FCNScore",
    "LabHistogram",
    "Metric",
]
