"""Checkpoints of junyanz/pytorch-CycleGAN-and-pix2pix into bundles.

`reading` gets tensors out of a file and runs nothing in it, `architecture` works out from their
names and shapes which network they are, and `convert` writes the bundle.
"""

from img2img.importing.convert import Imported, import_checkpoint

__all__ = ["Imported", "import_checkpoint"]
