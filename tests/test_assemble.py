"""What does not go together is told before anything is read or written."""

import pytest
import torch
from torch import nn

import img2img
from img2img.assemble import build_networks
from img2img.document import Document
from img2img.errors import RecipeError
from img2img.recipe_parser import parse_recipe

RECIPE = """
name = "mixed"
[task]
name = "{task}"
[data]
root = "nowhere"
crop_size = 32
[generator]
name = "{generator}"
[[losses]]
name = "{loss}"
[train]
steps = 1
"""


def build(registry, task="paired", generator="unet", loss="l1", **options):
    text = RECIPE.format(task=task, generator=generator, loss=loss)
    recipe = parse_recipe(Document(text, "mixed.toml"), registry)
    return build_networks(recipe, registry, torch.device("cpu"), "float32", **options)


def refused(registry, **names):
    with pytest.raises(RecipeError) as caught:
        build(registry, **names)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("task", ["paired", "edges", "labels", "colorization"])
def test_cross_entropy_wants_classes(registry, task):
    problem = refused(registry, task=task, loss="cross_entropy")
    assert problem.startswith("mixed.toml:10: losses.0: cross_entropy is for tasks whose targets")
    assert "photo2labels" in problem


def test_classes_get_a_softmax(registry):
    _, method = build(registry, task="photo2labels", loss="cross_entropy")
    output = method.generator(torch.rand(1, 3, 32, 32))
    assert output.shape == (1, 12, 32, 32)
    assert torch.allclose(output.sum(1), torch.ones(1, 32, 32))


def test_a_generator_that_gives_images_is_not_used_for_classes(registry):
    class Plain(nn.Module):
        """One layer. Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

        def __init__(self, in_channels, out_channels):
            super().__init__()

    registry.generator("plain", Plain)
    problem = refused(registry, task="photo2labels", generator="plain", loss="cross_entropy")
    assert problem.startswith("mixed.toml:8: generator: the task 'photo2labels' wants class")
    assert "'plain' gives images" in problem


def test_buffers_that_are_not_saved_are_tried_out_too(registry):
    class Shifted(nn.Module):
        """One layer. Shape: (B, in_channels, H, W) -> (B, out_channels, H, W)."""

        def __init__(self, in_channels, out_channels):
            super().__init__()
            self.layer = nn.Conv2d(in_channels, out_channels, 1)
            self.register_buffer("shift", torch.zeros(1), persistent=False)

        def forward(self, source):
            return torch.tanh(self.layer(source) + self.shift)

    registry.generator("shifted", Shifted)
    build(registry, generator="shifted")


PLUGIN = """
import img2img
from torch import nn

class Told(nn.Module):
    \"\"\"One layer that notes how it was made. Shape: (B, in_channels, H, W), the same out.\"\"\"

    def __init__(self, in_channels, out_channels, initialize):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)
        with open({log!r}, "a") as file:
            file.write(f"{{initialize}} ")

    def forward(self, source):
        return self.layer(source)

@img2img.hookimpl
def register(registry):
    registry.generator("told", Told)
"""


def test_weights_are_fetched_for_a_new_run_alone(tmp_path):
    """Not where those of a checkpoint or a bundle follow; but again with --fresh."""
    log = tmp_path / "log"
    plugin = tmp_path / "told.py"
    plugin.write_text(PLUGIN.format(log=str(log)))
    recipe = tmp_path / "told.toml"
    text = RECIPE.format(task="paired", generator="told", loss="l1")
    text = text.replace('root = "nowhere"', 'source = "synthetic"\ncount = 4\nsize = 32')
    recipe.write_text(text)
    common = {"out": tmp_path / "run", "device": "cpu", "plugins": [plugin]}
    img2img.train(recipe, **common)
    img2img.train(recipe, resume=True, overrides={"train.steps": 2}, **common)
    img2img.load(tmp_path / "run", device="cpu", plugins=[plugin])
    img2img.train(recipe, fresh=True, **common)
    # A bundle's network is built twice: without memory first, to see that it fits the file.
    assert log.read_text().split() == ["True", "False", "False", "False", "True"]


def test_data_that_can_be_fetched_says_how(registry, tmp_path, monkeypatch):
    from img2img.assemble import build_source
    from img2img.errors import DataError

    monkeypatch.chdir(tmp_path)
    text = RECIPE.format(task="paired", generator="unet", loss="l1")
    for root, fetched in (("data/facades", True), ("data/mine", False), ("facades", False)):
        recipe = parse_recipe(Document(text.replace("nowhere", root), "mixed.toml"), registry)
        with pytest.raises(DataError, match="there is no folder") as caught:
            build_source(recipe, registry, "train")
        assert ("`img2img data fetch facades` gets it" in str(caught.value)) is fetched
