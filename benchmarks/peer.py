"""The peer's own test loop, driven through its modules in this process. See README.md.

The peer is github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

# All that its test.py imports, and where its networks are made.
MODULES = (
    "options.test_options",
    "data",
    "models",
    "models.networks",
    "util.html",
    "util.visualizer",
)
# Its U-Nets by their depth.
GENERATORS = {8: "unet_256", 7: "unet_128"}
# The name of the experiment, a folder below those of checkpoints and of results.
NAME = "benchmark"


class Peer:
    """What the peer's `test.py` does with a folder of images: `--model test`, the leanest it has.

    Each image is saved beside its result, and a web page shows them all. Batches of one without
    workers are its test loop's own; norms are in training mode, as they are without its `--eval`.

    Args:
        checkout: the folder that its code lies in.

    Attributes:
        network: its generator, from `load` on.
    """

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.network: nn.Module = nn.Identity()
        try:
            with self._at_home(), wandb_or_nothing():
                self._modules: dict[str, Any] = {n: importlib.import_module(n) for n in MODULES}
        except ImportError as error:
            raise SystemExit(
                f"--peer {checkout}: cannot be imported ({error}); beyond torch it needs "
                f"torchvision and dominate"
            ) from error

    def generator(self, depth: int, width: int) -> nn.Module:
        """A U-Net of its own with weights as torch draws them; as it does, all would be grey."""
        with self._at_home():
            network: nn.Module = self._modules["models.networks"].define_G(
                3, 3, width, GENERATORS[depth], "batch", False
            )
        return network

    def load(
        self, images: Path, checkpoints: Path, settings: Namespace, *, depth: int, count: int
    ) -> None:
        """Its options, and its model with the weights in `checkpoint_in(checkpoints)`.

        Args:
            images: the folder that it translates.
            checkpoints: the folder below which its checkpoint lies.
            settings: `size` of the images in pixels, `width` and `dropout` of the U-Net, `device`.
            depth: of the U-Net.
            count: images in the folder; it would stop after 50 of them.
        """
        arguments = {
            "dataroot": images,
            "checkpoints_dir": checkpoints,
            "name": NAME,
            "model": "test",
            "netG": GENERATORS[depth],
            "norm": "batch",
            "ngf": settings.width,
            # Images have the size that is wanted, so nothing is left to do.
            "preprocess": "none",
            "load_size": settings.size,
            "crop_size": settings.size,
            "num_test": count,
            "batch_size": 1,
            "num_threads": 0,
        }
        flags = ["--serial_batches", "--no_flip", *([] if settings.dropout else ["--no_dropout"])]
        given = [f"--{key}={value}" for key, value in arguments.items()]
        with self._at_home(), command_line([*given, *flags]):
            self._options = self._modules["options.test_options"].TestOptions().parse()
            self._options.device = settings.device
            self._model = self._modules["models"].create_model(self._options)
            self._model.setup(self._options)
        self.network = self._model.netG

    def translate(self, results: Path) -> None:
        """All images, into a web page below a folder; see `result_in`."""
        options, model = self._options, self._model
        with self._at_home():
            page = self._modules["util.html"].HTML(results, NAME)
            save = self._modules["util.visualizer"].save_images
            for batch in self._modules["data"].create_dataset(options):
                model.set_input(batch)
                model.test()
                save(
                    page,
                    model.get_current_visuals(),
                    model.get_image_paths(),
                    aspect_ratio=options.aspect_ratio,
                    width=options.display_winsize,
                )
            page.save()

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        # It reports on stdout, which is for the JSON.
        with contextlib.redirect_stdout(sys.stderr), importing_from(self.checkout):
            yield


def checkpoint_in(checkpoints: Path) -> Path:
    """The file that the peer loads its generator from."""
    return checkpoints / NAME / "latest_net_G.pth"


def result_in(results: Path, stem: str) -> Path:
    """Where the peer saves what became of the image with that name."""
    return results / "images" / f"{stem}_fake.png"


@contextlib.contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """The folder is the first that modules are looked for in."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def wandb_or_nothing() -> Iterator[None]:
    """The peer imports wandb whether it is used or not, and a test run does not use it."""
    missing = importlib.util.find_spec("wandb") is None
    if missing:
        sys.modules["wandb"] = ModuleType("wandb")
    try:
        yield
    finally:
        if missing:
            del sys.modules["wandb"]


@contextlib.contextmanager
def command_line(arguments: list[str]) -> Iterator[None]:
    """The peer reads its options from there and from nowhere else."""
    before = sys.argv
    sys.argv = ["test.py", *arguments]
    try:
        yield
    finally:
        sys.argv = before
