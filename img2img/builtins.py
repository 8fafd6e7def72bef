"""Registers the built-in components, through the hook that every plugin uses."""

from __future__ import annotations

from img2img import data, discriminators, generators, losses, methods, metrics, tasks
from img2img.hookspecs import hookimpl
from img2img.registry import Registry


@hookimpl
def register(registry: Registry) -> None:
    registry.generator("unet", generators.UNet)
    registry.generator("encoder_decoder", generators.EncoderDecoder)
    registry.generator("resnet", generators.ResNet)
    registry.generator("timm_unet", generators.TimmUNet)

    registry.discriminator("pixelgan", discriminators.PixelGAN)
    registry.discriminator("patchgan", discriminators.PatchGAN)
    registry.discriminator("patchgan16", discriminators.PatchGAN16)
    registry.discriminator("patchgan70", discriminators.PatchGAN70)
    registry.discriminator("patchgan286", discriminators.PatchGAN286)
    registry.discriminator("imagegan", discriminators.ImageGAN)

    registry.loss("adversarial", losses.Adversarial)
    registry.loss("l1", losses.L1)
    registry.loss("l2", losses.L2)
    registry.loss("charbonnier", losses.Charbonnier)
    registry.loss("ssim", losses.SSIM)
    registry.loss("perceptual", losses.Perceptual)
    registry.loss("feature_matching", losses.FeatureMatching)
    registry.loss("total_variation", losses.TotalVariation)
    registry.loss("cross_entropy", losses.CrossEntropy)

    registry.task("paired", tasks.Paired)
    registry.task("edges", tasks.Edges)
    registry.task("maps", tasks.Maps)
    registry.task("labels", tasks.Labels)
    registry.task("photo2labels", tasks.PhotoToLabels)
    registry.task("colorization", tasks.Colorization)

    registry.source("side_by_side", data.SideBySide)
    registry.source("two_folders", data.TwoFolders)
    registry.source("derived", data.Derived)
    registry.source("damaged", data.Damaged)
    registry.source("huggingface", data.HuggingFace)
    registry.source("shards", data.Shards)
    registry.source("synthetic", data.Synthetic)

    registry.method("pix2pix", methods.Pix2Pix)

    registry.metric("l1", metrics.L1)
    registry.metric("psnr", metrics.PSNR)
    registry.metric("ssim", metrics.SSIM)
    registry.metric("ms-ssim", metrics.MSSSIM)
    registry.metric("lpips", metrics.LPIPS)
    registry.metric("fid", metrics.FID)
    registry.metric("kid", metrics.KID)
    registry.metric("lab-histogram", metrics.LabHistogram)
    registry.metric("accuracy", metrics.Accuracy)
    registry.metric("fcn-score", metrics.FCNScore)
