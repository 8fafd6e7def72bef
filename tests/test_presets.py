"""The presets `paper` and `port`: what they set, what wins over them, what shows them."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from img2img.cli import app
from img2img.document import Document
from img2img.errors import RecipeError, RequestError
from img2img.presets import FORKS, preset_names
from img2img.recipe_parser import parse_recipe

RECIPE = """
name = "facades"
{preset}
[data]
source = "synthetic"
[generator]
name = "{generator}"
[discriminator]
name = "patchgan70"
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
[train]
steps = 10
"""

# Written down from the table "where paper and code part", not read from the code.
EXPECTED = {
    "paper": {
        "generator.innermost_norm": True,
        "generator.dropout_layers": [1, 2, 3],
        "discriminator.conditional": True,
        "method.halve_discriminator": True,
        "method.generator_sees": "before",
        "train.schedule": "constant",
        "inference.statistics": "image",
        "inference.dropout": True,
    },
    "port": {
        "generator.innermost_norm": False,
        "generator.dropout_layers": [2, 3, 4],
        "discriminator.conditional": True,
        "method.halve_discriminator": True,
        "method.generator_sees": "after",
        "train.schedule": "linear",
        "train.decay_from": 0.5,
        "inference.statistics": "image",
        "inference.dropout": True,
    },
}


def parse(registry, preset, generator="unet", overrides=()):
    line = f'preset = "{preset}"' if preset else ""
    text = RECIPE.format(preset=line, generator=generator)
    return parse_recipe(Document(text, "facades.toml"), registry, overrides).to_dict()


def lookup(recipe, key):
    table, name = key.split(".")
    return recipe[table].get(name)


@pytest.mark.parametrize("generator", ["unet", "encoder_decoder"])
@pytest.mark.parametrize("preset", ["paper", "port"])
def test_a_preset_sets_every_fork(registry, preset, generator):
    recipe = parse(registry, preset, generator)
    for key, value in EXPECTED[preset].items():
        assert lookup(recipe, key) == value, key
    assert {fork.key for fork in FORKS} == set(EXPECTED["port"])


def test_all_of_it_is_written_down_and_read_back(registry):
    """A run's recipe.toml repeats the run, whatever presets may say by then."""
    recipe = parse_recipe(
        Document(RECIPE.format(preset='preset = "port"', generator="unet"), "a.toml"), registry
    )
    assert recipe.to_dict()["preset"] == "port"
    assert parse_recipe(Document(recipe.to_toml(), "b.toml"), registry) == recipe
    without = recipe.to_toml().replace('preset = "port"\n', "")
    again = parse_recipe(Document(without, "b.toml"), registry).to_dict()
    assert again == {key: value for key, value in recipe.to_dict().items() if key != "preset"}


@pytest.mark.parametrize("preset", ["paper", "port"])
@pytest.mark.parametrize(
    ("key", "value", "given"),
    [
        ("generator.innermost_norm", "true", True),
        ("generator.innermost_norm", "false", False),
        ("generator.dropout_layers", "[5]", [5]),
        ("discriminator.conditional", "false", False),
        ("method.halve_discriminator", "false", False),
        ("method.generator_sees", "before", "before"),
        ("method.generator_sees", "after", "after"),
        ("train.schedule", "cosine", "cosine"),
        ("inference.statistics", "running", "running"),
        ("inference.dropout", "false", False),
    ],
)
def test_what_the_recipe_says_itself_wins(registry, preset, key, value, given):
    assert lookup(parse(registry, preset, overrides=[f"{key}={value}"]), key) == given


def test_a_preset_can_be_set(registry):
    recipe = parse(registry, "", overrides=["preset=port"])
    assert lookup(recipe, "train.schedule") == "linear"


def test_components_without_a_setting_are_left_alone(registry):
    """A plugin's generator need not know what an innermost layer is."""
    from torch import nn

    class Plain(nn.Module):
        """One layer."""

        def __init__(self, in_channels, out_channels, *, width: int = 4):
            super().__init__()

    registry.generator("plain", Plain)
    assert parse(registry, "paper", "plain")["generator"] == {"name": "plain", "width": 4}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('preset = "papper"', ":3: 'papper' is not a preset (did you mean 'paper'?); possible: "),
        ("preset = 3", ":3: 3 is not a preset"),
    ],
)
def test_an_unknown_preset(registry, line, message):
    text = RECIPE.format(preset=line, generator="unet")
    with pytest.raises(RecipeError) as caught:
        parse_recipe(Document(text, "facades.toml"), registry)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


def test_every_fork_is_a_setting_of_the_paper_recipe(registry):
    """A key that no recipe has would be passed over in silence."""
    recipe = parse(registry, "port")
    assert all(lookup(recipe, fork.key) is not None for fork in FORKS)


@pytest.mark.parametrize("preset", ["paper", "port"])
def test_show_explains_each_choice_with_its_source(preset):
    shown = CliRunner().invoke(app, ["show", "preset", preset], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    text = re.sub(r"\s+", " ", shown.output)
    for fork in FORKS:
        assert fork.key in text
        assert text.count("Paper: ") + text.count("Port: ") >= len(FORKS)
    as_json = json.loads(CliRunner().invoke(app, ["show", "preset", preset, "--json"]).output)
    values = {choice["key"]: choice["value"] for choice in as_json["choices"]}
    for key, value in EXPECTED[preset].items():
        assert values[key] == value
    assert all(len(c["about"]) > 20 and len(c["source"]) > 20 for c in as_json["choices"])


def test_list_shows_presets():
    listed = CliRunner().invoke(app, ["list", "presets", "--json"])
    assert [row["name"] for row in json.loads(listed.output)] == preset_names()


def test_show_of_an_unknown_preset():
    failed = CliRunner().invoke(app, ["show", "preset", "prt"])
    assert isinstance(failed.exception, RequestError)
    assert "did you mean 'port'" in str(failed.exception)


def test_the_documented_table_is_true(registry):
    """docs/recipes.md lists every fork with both values and the default."""
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE)
    table = {key: cells for key, *cells in rows}
    assert table.keys() == {fork.key for fork in FORKS}
    for preset, column in (("paper", 0), ("port", 1), ("", 2)):
        recipe = parse(registry, preset)
        for key, cells in table.items():
            cell = cells[column].strip().strip("`")
            assert lookup(recipe, key) == (json.loads(cell) if cell else None), key


def test_the_port_says_nothing_of_schedules_that_it_does_not_have(registry):
    from img2img.assemble import _schedule

    for preset in ("", "port"):
        text = RECIPE.format(preset=f'preset = "{preset}"' if preset else "", generator="unet")
        recipe = parse_recipe(Document(text, "a.toml"), registry, ["train.schedule=cosine"])
        assert _schedule(recipe.train).decay_from == 0
