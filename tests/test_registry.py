"""Components, and the settings that their signatures declare."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import Field
from torch import nn

from img2img.component import KINDS
from img2img.errors import PluginError
from img2img.registry import Registry, suggest


class Network(nn.Module):
    """A network. It does nothing.

    Shape: (B, C, H, W), the same out.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        width: how wide,
            in channels.
        depth (int): how deep.
        mode: one of two.

    Attributes:
        width: not what a recipe sets.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int = 64,
        depth: int | None = None,
        mode: Literal["a", "b"] = "a",
        layers: Sequence[int] = (1, 2),
    ):
        super().__init__()
        self.given = (in_channels, out_channels, width, depth, mode, tuple(layers))


def only(registry):
    (component,) = registry.components()
    return component


def test_settings_come_from_the_signature():
    registry = Registry()
    registry.generator("network", Network)
    component = only(registry)
    assert component.summary == "A network."
    assert component.takes == {"in_channels", "out_channels"}
    assert component.origin == "this program"
    rows = [(s.name, s.type_name, s.default, s.required, s.help) for s in component.settings]
    assert rows == [
        ("width", "int", 64, False, "how wide, in channels."),
        ("depth", "int | None", None, False, "how deep."),
        ("mode", "'a' | 'b'", "a", False, "one of two."),
        ("layers", "Sequence[int]", (1, 2), False, ""),
    ]
    network = component.build({"width": 2}, in_channels=3, out_channels=4, image_size=5)
    assert network.given == (3, 4, 2, None, "a", (1, 2))


def test_a_function_is_a_factory():
    def build(in_channels: int, image_size: int, *, width: int) -> nn.Module:
        """A judge."""
        return nn.Conv2d(in_channels, width, image_size)

    registry = Registry()
    registry.discriminator("judge", build)
    component = only(registry)
    assert component.takes == {"in_channels", "image_size"}
    (width,) = component.settings
    assert width.required
    assert component.build({"width": 7}, in_channels=3, image_size=5).weight.shape == (7, 3, 5, 5)


def test_what_the_assembly_supplies_needs_no_annotation():
    def build(in_channels, out_channels, image_size=256):
        """A network."""

    registry = Registry()
    registry.generator("plain", build)
    assert only(registry).settings == ()
    assert only(registry).takes == {"in_channels", "out_channels", "image_size"}


@pytest.mark.parametrize(
    ("annotation", "default", "name"),
    [
        (bool, True, "bool"),
        (float, 1, "float"),
        (float, float("inf"), "float"),
        (str, "", "str"),
        (int, None, "int"),
        (Path, Path("x"), "Path"),
        (list[int], [1], "list[int]"),
        (tuple[int, ...], (), "tuple[int, ...]"),
        (dict[str, float], {"a": 1}, "dict[str, float]"),
        (Optional[Literal["a", "b"]], None, "'a' | 'b' | None"),  # noqa: UP045 - older code has it
        (int | Literal["auto"], "auto", "int | 'auto'"),
        (Annotated[int, Field(ge=1)], 2, "int"),
    ],
)
def test_types_of_settings(annotation, default, name):
    def build(value=default):
        """A loss."""

    build.__annotations__["value"] = annotation
    registry = Registry()
    registry.loss("some", build)
    (setting,) = only(registry).settings
    assert setting.type_name == name
    assert setting.default == default


def test_names_that_the_validation_uses_itself(recwarn):
    """A setting may be called like a method of pydantic's models."""

    def build(copy: bool = True, json: int = 1, schema: str = "x", model_dump: int = 2):
        """A loss."""

    registry = Registry()
    registry.loss("some", build)
    found = only(registry).model.model_validate({"copy": False, "model_dump": 3})
    assert (found.copy, found.json, found.schema, found.model_dump) == (False, 1, "x", 3)
    assert not recwarn.list


# Refusals


def star_kwargs(width: int = 1, **kwargs: int): ...


def star_args(*layers: int): ...


def unannotated(width=1): ...


def positional_only(width: int, /): ...


def unresolved(width: "Undefined" = 1): ...  # noqa: F821 - the fault under test


def reserved(weight: float = 1.0): ...


def a_module(inner: nn.Module): ...


def a_class(activation: type[nn.Module] = nn.ReLU): ...


def a_function(activation: Callable[[int], int]): ...


def a_default_function(activation: Callable[..., Any] = print): ...


def wrong_default(width: int = "64"): ...


def float_default(width: int = 1.0): ...


def leading_underscore(_width: int = 1): ...


def model_config(model_config: int = 1): ...


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (star_kwargs, r"\*\*kwargs are refused"),
        (star_args, r"\*\*kwargs are refused"),
        (unannotated, "'width' needs an annotation"),
        (lambda width: None, "'width' needs an annotation"),
        (positional_only, "'width' must be usable as a keyword"),
        (unresolved, "annotations cannot be read .*Undefined"),
        (reserved, "'weight' is a key of the recipe's table itself"),
        (a_module, "cannot come from a recipe .*Module"),
        (a_class, "default of 'activation' cannot be written into a recipe"),
        (a_function, "cannot come from a recipe"),
        (a_default_function, "default of 'activation' cannot be written"),
        (wrong_default, "default of 'width', '64', is not of its own type, int"),
        (float_default, "default of 'width', 1.0, is not of its own type, int"),
        (leading_underscore, "cannot be called '_width'"),
        (model_config, "cannot be called 'model_config'"),
        (print, "refused|cannot be read"),
        (None, "must be a class or a function, not None"),
        ("l1", "must be a class or a function, not 'l1'"),
        (nn.L1Loss(), "must be a class or a function"),
        (functools.partial(star_kwargs, width=2), "must be a class or a function"),
        (nn.Sequential, r"\*\*kwargs are refused"),
    ],
)
def test_refused_factories(factory, reason):
    registry = Registry()
    with pytest.raises(PluginError, match=reason) as caught:
        registry.loss("some", factory)
    assert str(caught.value).startswith("loss 'some' from this program: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert registry.components() == []


def lacks_channels(width: int = 1): ...


def lacks_one(in_channels: int): ...


def channels_by_position(in_channels: int, /, out_channels: int): ...


def takes_name(in_channels: int, out_channels: int, name: str = ""): ...


@pytest.mark.parametrize(
    ("kind", "factory", "reason"),
    [
        ("generator", lacks_channels, "must take in_channels, out_channels"),
        ("generator", lacks_one, "must take out_channels"),
        ("generator", nn.L1Loss, "must take|annotation"),
        ("generator", channels_by_position, "'in_channels' must be usable as a keyword"),
        ("generator", takes_name, "'name' is a key"),
        ("discriminator", lacks_channels, "must take in_channels"),
        ("task", Network, "must have encode_source, encode_target, decode_source, decode_target"),
        ("source", Network, "must have __len__, pair, name"),
        ("method", Network, "must have step"),
    ],
)
def test_each_kind_asks_for_what_it_needs(kind, factory, reason):
    registry = Registry()
    with pytest.raises(PluginError, match=reason):
        getattr(registry, kind)("some", factory)
    assert registry.components() == []


@pytest.mark.parametrize("name", ["", "Unet", "my net", "-net", "_net", "net/1", "nét", "a\n", 3])
def test_bad_names(name):
    with pytest.raises(PluginError, match="names are lower case letters"):
        Registry().generator(name, Network)


@pytest.mark.parametrize("name", ["net", "net2", "2net", "my-net_v1.0"])
def test_good_names(name):
    registry = Registry()
    registry.generator(name, Network)
    assert registry.names("generator") == [name]


def test_a_duplicate_names_both_sides():
    registry = Registry()
    with registry.adding_from("img2img-one"):
        registry.generator("net", Network)
    with (
        pytest.raises(PluginError, match=r"'net' from img2img-two.*taken by img2img-one"),
        registry.adding_from("img2img-two"),
    ):
        registry.generator("net", Network)
    assert only(registry).origin == "img2img-one"
    # Another kind may use the name.
    registry.loss("net", lambda: None)
    assert registry.names("loss") == ["net"]


@pytest.mark.parametrize("error", [PluginError("no"), ValueError("no"), KeyboardInterrupt()])
def test_adding_succeeds_whole_or_changes_nothing(error):
    registry = Registry()
    registry.generator("before", Network)
    with pytest.raises(type(error)), registry.adding_from("img2img-bad"):
        registry.generator("one", Network)
        registry.loss("two", lambda: None)
        raise error
    assert only(registry).name == "before"
    registry.generator("after", Network)
    assert registry.get("generator", "after").origin == "this program"


# Looking up


def test_getting_says_what_there_is(registry):
    assert registry.get("generator", "unet").name == "unet"
    with pytest.raises(KeyError) as caught:
        registry.get("generator", "unett")
    names = ", ".join(registry.names("generator"))
    assert "encoder_decoder, resnet" in names
    assert caught.value.args[0] == (
        f"'unett' is not a generator (did you mean 'unet'?); possible: {names}"
    )


def test_components_come_in_the_order_of_kinds(registry):
    found = [(list(KINDS).index(c.kind), c.name) for c in registry.components()]
    assert found == sorted(found)
    assert {c.kind for c in registry.components()} == set(KINDS)
    assert [c.name for c in registry.components("loss")] == registry.names("loss")


def test_suggest():
    assert suggest("widht", ["depth", "width"]) == (
        " (did you mean 'width'?); possible: depth, width"
    )
    assert suggest("zzz", ["depth"]) == "; possible: depth"
    assert suggest("zzz", []) == ""


# Docstrings


class Silent(nn.Module):
    def __init__(self, *, epsilon: float = 1e-3):
        super().__init__()


@pytest.mark.parametrize(
    ("doc", "summary"),
    [
        (None, ""),
        ("One line", "One line"),
        ("One sentence. Another.", "One sentence."),
        ("Over\n    two lines. More.", "Over two lines."),
        ("Has e.g. a shorthand. More.", "Has e.g. a shorthand."),
        ("From arXiv 1611.07004, section 3.3. More.", "From arXiv 1611.07004, section 3.3."),
        ("No stop\n\nAnother paragraph.", "No stop"),
        ("Is it? Yes.", "Is it?"),
    ],
)
def test_summary(doc, summary):
    def build(): ...

    build.__doc__ = doc
    registry = Registry()
    registry.loss("some", build)
    assert only(registry).summary == summary


def test_a_class_without_docstring_does_not_show_its_parents():
    registry = Registry()
    registry.loss("silent", Silent)
    assert only(registry).summary == ""
    assert [s.name for s in only(registry).settings] == ["epsilon"]
