"""The schema of a recipe, and every mistake in one at once."""

import enum
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from torch import nn

from img2img.document import Document
from img2img.errors import RecipeError, RequestError
from img2img.recipe import CompareSettings
from img2img.recipe_files import find_recipe, shipped_recipes
from img2img.recipe_parser import load_recipe, parse_recipe

LEAST = """
name = "edges"
[data]
source = "synthetic"
[[losses]]
name = "l1"
[train]
steps = 5
"""


@pytest.fixture
def parse(registry):
    def parse(text, *overrides):
        return parse_recipe(Document(text, "edges.toml"), registry, overrides)

    return parse


@pytest.fixture
def problems(parse):
    """Everything that is wrong with a recipe."""

    def problems(text, *overrides):
        with pytest.raises(RecipeError) as caught:
            parse(text, *overrides)
        assert str(caught.value) == "\n".join(caught.value.problems)
        assert caught.value.exit_code == 2
        return caught.value.problems

    return problems


def changed(old, new):
    assert LEAST.count(old) == 1
    return LEAST.replace(old, new)


def with_data(line):
    return changed("[data]", f"[data]\n{line}")


# Mistakes


def test_the_form_of_a_mistake(problems):
    text = """name = "edges"
[task]
name = "edges"
[data]
source = "synthetic"
# A line that counts.
[generator]
name = "unet"
widht = 64
[[losses]]
name = "l1"
[train]
steps = 5
"""
    (problem,) = problems(text)
    assert problem.startswith(
        "edges.toml:9: generator.widht is not a setting of 'unet' (did you mean 'width'?)"
    )
    for name in ("width", "depth", "norm", "dropout", "dropout_layers"):
        assert name in problem.partition("; possible: ")[2]


@pytest.mark.parametrize(
    ("table", "key", "home"),
    [
        ("train", "learning_rate", "method.learning_rate"),
        ("train", "crop_size", "data.crop_size"),
        ("data", "batch_size", "train.batch_size"),
        ("data", "width", "generator.width"),
        ("generator", "dropout_rate", None),
    ],
)
def test_a_key_of_another_table_is_told_where_it_belongs(problems, table, key, home):
    (problem,) = problems(LEAST, f"{table}.{key}=1")
    assert f": {table}.{key} is not a" in problem
    assert (f"(did you mean {home}?)" in problem) == (home is not None)


def test_every_mistake_at_once_in_the_order_of_the_file(problems):
    found = problems(
        """name = "edges"
[train]
epochs = 1.5
batch_sise = 2
[generator]
name = "unett"
[discriminator]
name = "patchgan70"
norm = "bach"
[data]
source = "synthetic"
load_size = 20
crop_size = 30
[[losses]]
name = "adversarial"
weight = -1
[[losses]]
name = "l1s"
[extra]
""",
        "train.seed=-1",
        "inference.dropout=maybe",
    )
    where = [problem.split(": ")[0] for problem in found]
    assert where[:2] == ["--set train.seed=-1", "--set inference.dropout=maybe"]
    assert where[2:] == [f"edges.toml:{line}" for line in (3, 4, 6, 9, 12, 16, 18, 19)]
    keys = ["seed", "dropout", "epochs", "batch_sise", "generator.name", "discriminator.norm"]
    keys += ["data.load_size", "losses.0.weight", "losses.1.name", "extra"]
    for problem, key in zip(found, keys, strict=True):
        assert key in problem.split(": ", 1)[1]
    nearest = {"batch_sise": "batch_size", "unett": "unet", "bach": "batch", "l1s": "l1"}
    for wrong, near in nearest.items():
        (problem,) = (problem for problem in found if wrong in problem)
        assert f"(did you mean {near!r}?)" in problem
    assert "; possible: adversarial, charbonnier, cross_entropy, " in found[8]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Types
        (changed("steps = 5", "steps = true"), ":8: train.steps should be an integer, not true"),
        (changed("steps = 5", "steps = 5.0"), ":8: train.steps should be an integer, not 5.0"),
        (changed("steps = 5", 'steps = "5"'), ":8: train.steps should be an integer, not '5'"),
        (changed("steps = 5", "steps = []"), ":8: train.steps should be an integer, not []"),
        (LEAST + "seed = 1979-05-27", ":9: train.seed should be an integer, not '1979-05-27'"),
        (LEAST + "decay_from = true", ":9: train.decay_from should be a number, not true"),
        (with_data("mirror = 1"), ":4: data.mirror should be true or false, not 1"),
        (with_data("root = 3"), ":4: data.root should be a text in quotes, not 3"),
        (with_data("source_color = 3"), ":4: data.source_color should be a table, not 3"),
        (changed('"synthetic"', "3"), ":4: data.source should be the name of a source, not 3"),
        ("data = 3\n" + changed('[data]\nsource = "synthetic"', ""), ":1: data should be a table"),
        (changed('"edges"', "3"), ":2: name should be a text in quotes, not 3"),
        (changed('"l1"', "true"), ":6: losses.0.name should be the name of a loss, not true"),
        (
            LEAST + "[generator]\ndropout = true",
            ":10: generator.dropout should be a number, not true",
        ),
        (
            LEAST + '[generator]\nwidth = "64"',
            ":10: generator.width should be an integer, not '64'",
        ),
        (
            LEAST + "[generator]\ndropout_layers = 2",
            ":10: generator.dropout_layers should be a list, not 2",
        ),
        (
            LEAST + "[generator]\ndropout_layers = [\n1,\n'x']",
            ":10: generator.dropout_layers.1 should be an integer, not 'x'",
        ),
        (
            LEAST + "[task]\nsource_channels = true",
            ":10: task.source_channels should be an integer, not true",
        ),
        (
            LEAST + "[task]\nsource_channels = 2.5",
            ":10: task.source_channels should be an integer, not 2.5",
        ),
        ("train = 3\n" + changed("[train]\nsteps = 5", ""), ":1: train should be a table, [train]"),
        (
            "generator = 'unet'\n" + LEAST,
            ":1: generator should be a table, [generator], not 'unet'",
        ),
        (
            LEAST + "[discriminator]\nconditional = 1",
            ":10: discriminator.conditional should be true or false, not 1",
        ),
        # Ranges and choices
        (changed("steps = 5", "steps = 0"), ":8: train.steps should be at least 1, not 0"),
        (LEAST + "batch_size = -1", ":9: train.batch_size should be at least 1, not -1"),
        (LEAST + "decay_from = 1.0", ":9: train.decay_from should be below 1, not 1.0"),
        (
            LEAST + "schedule = 'linaer'",
            "'cosine' or 'step', not 'linaer' (did you mean 'linear'?)",
        ),
        (with_data("crop_size = 3"), ":4: data.crop_size should be at least 4, not 3"),
        (
            with_data("source_color.hue = 0.6"),
            ":4: data.source_color.hue should be at most 0.5, not 0.6",
        ),
        (
            with_data("source_color.heu = 0.6"),
            ":4: data.source_color.heu is not a key of data.source_color (did you mean 'hue'?)",
        ),
        (
            with_data("load_size = 20\ncrop_size = 30"),
            ":4: data.load_size is 20, below data.crop_size, 30",
        ),
        (
            changed('"l1"', '"l1"\nweight = -0.5'),
            ":7: losses.0.weight should be a number, 0 or more, not -0.5",
        ),
        (
            changed('"l1"', '"l1"\nweight = inf'),
            ":7: losses.0.weight should be a number, 0 or more, not inf",
        ),
        (
            changed('"l1"', '"l1"\nweight = true'),
            ":7: losses.0.weight should be a number, 0 or more, not true",
        ),
        # What is missing or too much
        (changed('name = "edges"', ""), ": name is missing"),
        (changed('"edges"', '""'), ":2: name is missing"),
        (changed('"synthetic"', '"side_by_side"'), ":3: data.root is missing"),
        (changed("steps = 5", ""), ":7: train.epochs or train.steps is missing"),
        (changed("[train]\nsteps = 5", ""), ": train.epochs or train.steps is missing"),
        (LEAST + "epochs = 5", ":8: train has both epochs and steps; keep one of them"),
        (changed('name = "l1"', "weight = 1"), ":5: losses.0.name is missing"),
        (changed('[[losses]]\nname = "l1"', ""), ": losses is missing: add [[losses]]"),
        ("losses = []\n" + changed('[[losses]]\nname = "l1"', ""), ":1: losses is missing"),
        ("losses = ['l1']\n" + changed('[[losses]]\nname = "l1"', ""), ":1: losses.0 should be a"),
        (changed("[[losses]]", "[losses]"), ":5: losses should be a list: write [[losses]]"),
        (LEAST + "[lossses]", ":9: lossses is not part of a recipe (did you mean 'losses'?)"),
        (LEAST + "[discriminator]\nname = 'x'\nwdith = 3", ":10: discriminator.name: 'x' is not a"),
        (
            changed('"l1"', '"l1"\nwieght = 3'),
            ":7: losses.0.wieght is not a setting of 'l1' (did you mean 'weight'?)",
        ),
        (
            with_data("conut = 3"),
            ":4: data.conut is not a key of [data] with the source 'synthetic' (did you mean 'co",
        ),
        (with_data("crop_szie = 3"), "(did you mean 'crop_size'?)"),
    ],
)
def test_one_mistake(problems, text, expected):
    (problem,) = problems(text)
    assert problem.startswith("edges.toml:")
    assert expected in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", ".hidden", "a\nb", "a\0b", " a", "x" * 201]
)
def test_a_name_must_do_as_a_folder(problems, name):
    (problem,) = problems(LEAST, f"name={tomllib_string(name)}")
    assert "becomes a folder" in problem


def tomllib_string(text):
    return '"' + "".join(f"\\u{ord(c):04x}" for c in text) + '"'


def test_names_that_do(parse):
    for name in ("edges2shoes", "Ünïcode name", "v1.2", "x" * 200):
        assert parse(LEAST, f"name={name}").name == name


def test_long_values_are_cut(problems):
    (problem,) = problems(changed("steps = 5", f"steps = {list(range(1000))}"))
    assert len(problem) < 200


# Settings of components that a plugin might have


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def many_kinds(
    *,
    either: int | Literal["auto"] = "auto",
    span: tuple[float, float] = (0.5, 0.999),
    paths: Path | None = None,
    colour: Colour = Colour.RED,
    table: dict[str, int] = {},  # noqa: B006 - a plugin may write it so
    limit: float = float("inf"),
) -> nn.Module:
    return nn.L1Loss()


def need(*, exponent: int) -> nn.Module:
    return nn.L1Loss()


def test_settings_of_many_types(registry, parse):
    registry.loss("many", many_kinds)
    text = changed('name = "l1"', 'name = "many"')
    (plain,) = parse(text).losses
    assert plain.settings == {
        "either": "auto",
        "span": (0.5, 0.999),
        "paths": None,
        "colour": Colour.RED,
        "table": {},
        "limit": float("inf"),
    }
    given = 'either = 3\nspan = [0, 1]\npaths = "x"\ncolour = "blue"\ntable.a = 1\n'
    recipe = parse(text.replace('"many"\n', f'"many"\n{given}'))
    assert recipe.losses[0].settings == {
        "either": 3,
        "span": (0.0, 1.0),
        "paths": Path("x"),
        "colour": Colour.BLUE,
        "table": {"a": 1},
        "limit": float("inf"),
    }
    assert parse(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("either = 1.5", "losses.0.either should be int | 'auto', not 1.5"),
        ("either = true", "losses.0.either should be int | 'auto', not true"),
        ("span = [1]", "losses.0.span has only 1 entries"),
        ("span = [1, false]", "losses.0.span.1 should be a number, not false"),
        ("span = [1, 'x']", "losses.0.span.1 should be a number, not 'x'"),
        ("colour = 'green'", "losses.0.colour should be 'red' or 'blue', not 'green'"),
        ("table.a = 'x'", "losses.0.table.a should be an integer, not 'x'"),
    ],
)
def test_mistakes_in_many_types(registry, problems, given, expected):
    registry.loss("many", many_kinds)
    (problem,) = problems(changed('name = "l1"', f'name = "many"\n{given}'))
    assert problem == f"edges.toml:7: {expected}"


def test_a_setting_without_default(registry, problems, parse):
    registry.loss("need", need)
    assert problems(changed('"l1"', '"need"')) == ("edges.toml:5: losses.0.exponent is missing",)
    assert parse(changed('"l1"', '"need"\nexponent = 2')).losses[0].settings == {"exponent": 2}


def test_a_default_arrives_as_the_same_type_from_a_written_recipe(registry, parse):
    """A plugin must not get a tuple the first time and a list from recipe.toml."""
    recipe = parse(LEAST)
    again = parse(recipe.to_toml())
    layers = [r.generator.settings["dropout_layers"] for r in (recipe, again)]
    assert type(layers[0]) is type(layers[1])
    assert layers[0] == layers[1]


# Defaults and overrides


def test_defaults(parse):
    recipe = parse(LEAST)
    assert (recipe.task.name, recipe.method.name) == ("paired", "pix2pix")
    assert recipe.generator.name == "unet"
    assert recipe.generator.settings["width"] == 64
    assert recipe.discriminator is None
    assert (recipe.data.crop_size, recipe.data.load_size, recipe.data.test_size) == (256, 286, 256)
    assert recipe.data.direction == "AtoB"
    assert recipe.source.settings["count"] == 400
    assert recipe.losses[0].weight == 1.0
    assert (recipe.train.batch_size, recipe.train.seed) == (1, 0)
    # The paper's ratio at another size.
    assert parse(with_data("crop_size = 64")).data.load_size == 72
    assert parse(LEAST + "[discriminator]\n").discriminator.name == "patchgan70"
    assert parse(LEAST + "[discriminator]\nconditional = false\n").conditional is False


@pytest.mark.parametrize(
    ("given", "overrides", "epochs", "steps"),
    [
        ("steps = 5", ["train.epochs=2"], 2, None),
        ("epochs = 5", ["train.steps=2"], None, 2),
        ("epochs = 5", ["train.steps = 2"], None, 2),
        ("epochs = 5", ["train.epochs=3"], 3, None),
        ("", ["train.steps=2"], None, 2),
        ("epochs = 5", ["train={steps = 7}"], None, 7),
    ],
)
def test_the_length_given_last_wins(parse, given, overrides, epochs, steps):
    train = parse(changed("steps = 5", given), *overrides).train
    assert (train.epochs, train.steps) == (epochs, steps)


def test_both_lengths_by_set_are_a_mistake(problems):
    (problem,) = problems(LEAST, "train.epochs=1", "train.steps=2")
    assert problem.startswith("--set train.steps=2: train has both")


def test_overrides_are_validated_like_the_file(problems, parse):
    recipe = parse(LEAST, "losses.l1.weight=10", "generator.width=8", "name=other run")
    assert recipe.losses[0].weight == 10
    assert recipe.generator.settings["width"] == 8
    assert recipe.name == "other run"
    found = problems(LEAST, "generator.widht=8", "losses.0.weight=heavy", "task=edges")
    assert [problem.rpartition("--set ")[2].partition(": ")[2][:24] for problem in found] == [
        "task should be a table, ",
        "generator.widht is not a",
        "losses.0.weight should b",
    ]


# requires


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes a distribution look installed."""

    def install(name, metadata):
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(metadata)

    monkeypatch.syspath_prepend(tmp_path)
    return install


def test_requires(parse, problems, installed):
    installed("img2img_foo-0.3", "Metadata-Version: 2.1\nName: img2img-foo\nVersion: 0.3\n")
    installed("img2img_new-2.0rc1", "Metadata-Version: 2.1\nName: img2img-new\nVersion: 2.0rc1\n")
    good = ["img2img-foo", "img2img-foo>=0.2", "img2img_foo >=0.2, <1", "img2img-new>=1"]
    assert parse(f"requires = {good}\n{LEAST}").requires == tuple(good)
    found = problems(
        f"""requires = [
    "img2img-bar>=0.2",
    "img2img-foo>=0.4",
    ">=2",
]
{LEAST}"""
    )
    assert [problem.startswith("edges.toml:1: ") for problem in found] == [True] * 3
    assert 'img2img-bar>=0.2, which is not installed: pip install "img2img-bar>=0.2"' in found[0]
    assert 'img2img-foo 0.3 is installed: pip install "img2img-foo>=0.4"' in found[1]
    assert "'>=2' is not a requirement" in found[2]
    assert "should be a list" in problems(f"requires = 'img2img-foo'\n{LEAST}")[0]
    assert "should be a list" in problems(f"requires = [1]\n{LEAST}")[0]


def test_requires_with_a_damaged_installation(problems, installed):
    installed("img2img_odd-1", "Metadata-Version: 2.1\nName: img2img-odd\nVersion: unknown\n")
    installed("img2img_none-1", "Metadata-Version: 2.1\nName: img2img-none\n")
    found = problems(f"requires = ['img2img-odd>=1', 'img2img-none>=1']\n{LEAST}")
    assert len(found) == 2
    assert "img2img-odd unknown is installed" in found[0]
    assert "img2img-none of no known version is installed" in found[1]


def test_requires_as_another_finder_answers(problems, monkeypatch):
    """`importlib_metadata` puts its own in Python's place and raises for a missing version."""

    def version(name):
        raise KeyError("Metadata field Version not present")

    monkeypatch.setattr("importlib.metadata.version", version)
    (found,) = problems(f"requires = ['img2img-none>=1']\n{LEAST}")
    assert "img2img-none of no known version is installed" in found


# Files


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes(name, registry):
    path = shipped_recipes()[name]
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert find_recipe(name) == path
    recipe = load_recipe(path, registry)
    assert recipe.name == name.removeprefix("compare/").replace("/", "-")
    again = parse_recipe(Document(recipe.to_toml(), "again.toml"), registry)
    # A single run has nothing to do with what is compared.
    assert again == replace(recipe, compare=CompareSettings())
    # What it says is what is read: no key of the file is lost or changed on the way.
    written = recipe.to_dict()
    for table, value in tomllib.loads(text).items():
        if table == "compare":
            assert CompareSettings(**value) == recipe.compare
        elif isinstance(value, dict):
            assert value.items() <= written[table].items()
        elif isinstance(value, list):
            for entry, other in zip(value, written[table], strict=True):
                assert entry.items() <= other.items()
        else:
            assert written[table] == value


def test_everything_set_survives_writing(parse):
    recipe = parse(
        'description = "Line one\\nüber \\"quotes\\""\n'
        + changed("[data]", '[data]\nsource_color = { hue = 0.1 }\nroot = "C:\\\\x"\nworkers = 0')
        + "validate_every = 7\n[discriminator]\nname = 'pixelgan'\nconditional = false\n"
        + "[[losses]]\nname = 'adversarial'\nmode = 'lsgan'\nweight = 0.5\n"
        + "[inference]\nstatistics = 'running'\n[generator]\ndepth = 3\ndropout_layers = []\n"
    )
    again = parse(recipe.to_toml())
    assert again == recipe
    assert again.to_toml() == recipe.to_toml()
    assert again.data.source_color.hue == 0.1
    assert again.data.root == "C:\\x"
    assert again.generator.settings["depth"] == 3
    assert again.losses[1].settings["mode"] == "lsgan"


def test_largest_sizes_survive_writing(parse):
    recipe = parse(with_data("crop_size = 65536"))
    assert parse(recipe.to_toml()) == recipe


def test_finding_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(LEAST)
    Path("folder").mkdir()
    assert find_recipe("mine.toml") == Path("mine.toml")
    with pytest.raises(RequestError, match="is a folder"):
        find_recipe("folder")
    with pytest.raises(RequestError, match="did you mean 'edges2shoes'") as caught:
        find_recipe("edges2shoe")
    # The list, which is long, is another command's.
    assert "`img2img list recipes`" in str(caught.value) and "facades" not in str(caught.value)
    # A file of the same name goes before what is shipped.
    Path("facades").write_text(LEAST)
    assert find_recipe("facades") == Path("facades")


def test_a_recipe_executes_nothing(tmp_path, monkeypatch, registry):
    """No value is imported, formatted or evaluated, whatever it looks like."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')\n")
    values = [
        '"evil_module"',
        '"evil_module:run"',
        '"{0.__class__}"',
        '"!!python/object/apply:os.system [touch x]"',
        "\"__import__('evil_module')\"",
        '"$(touch x)"',
    ]
    monkeypatch.chdir(tmp_path)
    for value in values:
        for key in ("task.name", "generator.name", "method.name", "data.source", "generator.norm"):
            with pytest.raises(RecipeError):
                parse_recipe(Document(LEAST, "x.toml"), registry, [f"{key}={value}"])
        recipe = parse_recipe(Document(LEAST, "x.toml"), registry, [f"description={value}"])
        assert recipe.description == tomllib.loads(f"a = {value}")["a"]
    assert "evil_module" not in sys.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil_module.py"]


# Jitter, and what --set replaces


def test_without_jitter_images_are_loaded_at_the_size_of_crops(parse):
    assert parse(with_data("jitter = false\ncrop_size = 96")).data.load_size == 96
    assert parse(with_data("crop_size = 128")).data.load_size == 143


def test_jitter_that_is_turned_off_and_asked_for(problems):
    (problem,) = problems(with_data("jitter = false\nload_size = 300"))
    assert ":5: data.load_size = 300 is jitter, which data.jitter = false turns off" in problem


def test_naming_another_component_says_how_to_leave_settings_behind(problems):
    text = LEAST + "[generator]\nname = 'unet'\ninnermost_norm = false\n"
    (problem,) = problems(text, "generator.name=resnet")
    assert problem.startswith(
        "edges.toml:11: generator.innermost_norm is not a setting of 'resnet'"
    )
    assert """--set 'generator={name="resnet"}' replaces its whole table""" in problem
    # A mistake in --set itself is just that.
    (problem,) = problems(LEAST, "generator.name=resnet", "generator.widht=3")
    assert "replaces" not in problem


def test_a_replaced_entry_keeps_its_weight(problems):
    text = LEAST.replace('name = "l1"', 'name = "charbonnier"\nweight = 7\nepsilon = 0.1')
    (problem,) = problems(text, "losses.0.name=l1")
    assert """--set 'losses.0={name="l1", weight=7}' replaces its whole table""" in problem


def test_another_source_leaves_the_root_alone(problems):
    text = with_data("count = 4\nroot = 'photos'")
    (problem,) = problems(text, "data.source=side_by_side")
    assert (
        "data.count is not a key of [data] with the source 'side_by_side' (the file's belong"
        in (problem)
    )


def test_no_jitter_and_no_resizing(problems):
    (problem,) = problems(with_data("jitter = false\nresize = false"))
    assert ":4: data.jitter = false has no meaning with data.resize = false" in problem
