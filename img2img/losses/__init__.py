"""Losses. A reconstruction loss is called with (output, target).

A `JudgedLoss` is given the discriminator instead, and an `AdversarialLoss` also trains it. All are
plain modules, or what a plain function returns.
"""

from img2img.losses.adversarial import Adversarial, AdversarialLoss, JudgedLoss
from img2img.losses.classes import CrossEntropy
from img2img.losses.matching import FeatureMatching
from img2img.losses.perceptual import Perceptual
from img2img.losses.pixel import L1, L2, Charbonnier
from img2img.losses.smoothness import TotalVariation
from img2img.losses.ssim import SSIM

__all__ = [
    "L1",
    "L2",
    "SSIM",
    "Adversarial",
    "AdversarialLoss",
    "Charbonnier",
    "CrossEntropy",
    "FeatureMatching",
    "JudgedLoss",
    "Perceptual",
    "TotalVariation",
]
