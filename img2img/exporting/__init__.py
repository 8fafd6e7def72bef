"""A trained model as one file for other programs: an image in, an image out.

`graph` is what is written: the task's way in, the network, the task's way back. `writing` makes the
file, `probes` are the images it is tried on and `expected` what the model gives for them, `running`
runs it as its users will, and `model` puts these together and keeps nothing that is wrong.
"""

from img2img.exporting.model import Exported, export_model

__all__ = ["Exported", "export_model"]
