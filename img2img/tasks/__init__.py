"""Tasks: how a pair of images becomes tensors, and how an output becomes an image."""

from img2img.tasks.base import Interpolation, Task
from img2img.tasks.colorization import Colorization
from img2img.tasks.edges import Edges
from img2img.tasks.labels import Labels, PhotoToLabels
from img2img.tasks.paired import Maps, Paired

__all__ = [
    "Colorization",
    "Edges",
    "Interpolation",
    "Labels",
    "Maps",
    "Paired",
    "PhotoToLabels",
    "Task",
]
