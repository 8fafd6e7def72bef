"""Components, and the settings that their signatures declare."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, get_type_hints

import pydantic
from pydantic_core import PydanticSerializationError, to_jsonable_python

from img2img.errors import PluginError

Factory = Callable[..., Any]
POSSIBLE_TYPES = "use numbers, strings, booleans, Literal, or sequences of these"


@dataclass(frozen=True)
class Kind:
    """A kind of component: what the assembly gives it, and which keys of its table are not its own.

    Attributes:
        required: parameters the assembly supplies and every factory must accept.
        optional: parameters it supplies to a factory that names them.
        reserved: keys of the recipe table that belong to the table, not to the component.
        called: methods that an instance must have, checked on classes.
    """

    name: str
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    reserved: frozenset[str] = frozenset({"name"})
    called: tuple[str, ...] = ()

    @property
    def supplied(self) -> frozenset[str]:
        return self.required | self.optional


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "generator",
            frozenset({"in_channels", "out_channels"}),
            frozenset({"image_size", "activation", "initialize"}),
        ),
        Kind(
            "discriminator",
            frozenset({"in_channels"}),
            frozenset({"image_size"}),
            frozenset({"name", "conditional"}),
        ),
        Kind("loss", reserved=frozenset({"name", "weight"})),
        Kind("task", called=("encode_source", "encode_target", "decode_source", "decode_target")),
        Kind(
            "source",
            optional=frozenset({"root", "split", "channels"}),
            reserved=frozenset(
                {
                    "source",
                    "root",
                    "direction",
                    "jitter",
                    "load_size",
                    "crop_size",
                    "test_size",
                    "resize",
                    "mirror",
                    "rotate",
                    "source_color",
                    "workers",
                    "keep_mb",
                }
            ),
            called=("__len__", "pair", "name"),
        ),
        Kind(
            "method",
            optional=frozenset(
                {
                    "build_generator",
                    "build_discriminator",
                    "losses",
                    "source_channels",
                    "target_channels",
                    "conditional",
                }
            ),
            called=("step",),
        ),
        Kind("metric", optional=frozenset({"classes"}), called=("update", "compute")),
    )
}


@dataclass(frozen=True)
class Setting:
    """One keyword argument of a component: a key that a recipe may give."""

    name: str
    annotation: Any
    default: Any
    help: str = ""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def type_name(self) -> str:
        """The annotation as a reader would write it: `int | None`, `'batch' | 'none'`."""
        return type_name(self.annotation)


@dataclass(frozen=True)
class Component:
    """A registered component.

    Attributes:
        kind: one of `KINDS`.
        name: what recipes call it.
        factory: the class or function.
        origin: the distribution or file it came from.
        summary: first sentence of its docstring.
        settings: what a recipe may set.
        takes: the supplied parameters that its signature names.
        defaults: of the settings that have one, as a recipe would write it; without those of None.
        model: validates a table of settings.
    """

    kind: str
    name: str
    factory: Factory
    origin: str
    summary: str
    settings: tuple[Setting, ...]
    takes: frozenset[str]
    defaults: dict[str, Any]
    model: type[pydantic.BaseModel] = field(repr=False)

    def build(self, settings: dict[str, Any], **supplied: Any) -> Any:
        """Construct it from validated settings and those of the supplied values that it takes."""
        given = {name: value for name, value in supplied.items() if name in self.takes}
        return self.factory(**given, **settings)


def describe(kind: Kind, name: str, factory: Factory, origin: str) -> Component:
    """A component as its factory's signature and docstring have it.

    Raises:
        PluginError: the signature is none that a recipe could fill in.
    """
    label = f"{kind.name} {name!r} from {origin}"
    _check_sort(factory, label)
    return _described(kind, name, factory, origin, label)


# Registries are built anew wherever one is needed; what a signature says stays the same.
@lru_cache(maxsize=1024)
def _described(kind: Kind, name: str, factory: Factory, origin: str, label: str) -> Component:
    settings, takes = _read_signature(kind, factory, label)
    defaults = _plain_defaults(settings, label)
    return Component(
        kind.name,
        name,
        factory,
        origin,
        _first_sentence(own_doc(factory)),
        settings,
        takes,
        defaults,
        _settings_model(f"{kind.name}.{name}", settings, defaults, label),
    )


def _check_sort(factory: Factory, label: str) -> None:
    if not inspect.isclass(factory) and not inspect.isroutine(factory):
        raise PluginError(f"{label}: a factory must be a class or a function, not {factory!r}")


def own_doc(factory: Factory) -> str:
    """A factory's docstring; not the one a class inherits, which would be torch's."""
    return inspect.cleandoc(factory.__doc__ or "")


def _read_signature(
    kind: Kind, factory: Factory, label: str
) -> tuple[tuple[Setting, ...], frozenset[str]]:
    if inspect.isclass(factory):
        missing = [name for name in kind.called if not hasattr(factory, name)]
        if missing:
            raise PluginError(f"{label}: a {kind.name} must have {', '.join(missing)}")
    target = factory.__init__ if inspect.isclass(factory) else factory
    try:
        hints = get_type_hints(target, include_extras=True)
    except Exception as error:
        raise PluginError(f"{label}: its annotations cannot be read ({error})") from error
    helps = _argument_help(own_doc(factory))
    settings, takes = [], set()
    for parameter in _parameters(factory):
        name = parameter.name
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise PluginError(
                f"{label}: *args and **kwargs are refused, because a typo in a recipe would vanish "
                f"in them; name the settings"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise PluginError(f"{label}: parameter {name!r} must be usable as a keyword")
        if name in kind.supplied:
            takes.add(name)
        elif name in kind.reserved:
            raise PluginError(f"{label}: {name!r} is a key of the recipe's table itself; rename it")
        elif name not in hints:
            raise PluginError(
                f"{label}: parameter {name!r} needs an annotation, because the signature is the "
                f"schema"
            )
        elif name.startswith("_") or name == "model_config":
            raise PluginError(f"{label}: a setting cannot be called {name!r}; rename it")
        else:
            settings.append(Setting(name, hints[name], parameter.default, helps.get(name, "")))
    lacking = sorted(kind.required - takes)
    if lacking:
        raise PluginError(f"{label}: a {kind.name} must take {', '.join(lacking)}")
    return tuple(settings), frozenset(takes)


def _plain_defaults(settings: Sequence[Setting], label: str) -> dict[str, Any]:
    found = {}
    for setting in settings:
        if not setting.required and setting.default is not None:
            try:
                found[setting.name] = to_jsonable_python(setting.default)
            except PydanticSerializationError as error:
                raise PluginError(
                    f"{label}: the default of {setting.name!r} cannot be written into a recipe; "
                    f"{POSSIBLE_TYPES}"
                ) from error
    return found


def _settings_model(
    name: str, settings: Sequence[Setting], defaults: dict[str, Any], label: str
) -> type[pydantic.BaseModel]:
    """A model of the settings, after a look that its defaults are what it would accept."""
    fields: dict[str, Any] = {
        s.name: (s.annotation, ... if s.required else s.default) for s in settings
    }
    config = pydantic.ConfigDict(extra="forbid", protected_namespaces=())
    try:
        with warnings.catch_warnings():
            # A setting called `copy` hides pydantic's method of that name, which nobody calls.
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
            model: type[pydantic.BaseModel] = pydantic.create_model(
                name, __config__=config, **fields
            )
        # Refuses what no text can become, such as a class or a function.
        model.model_json_schema()
    except (pydantic.PydanticUserError, NameError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise PluginError(
            f"{label}: a setting's type cannot come from a recipe ({reason}); {POSSIBLE_TYPES}"
        ) from error
    try:
        model.model_validate_json(json.dumps(defaults), strict=True)
    except pydantic.ValidationError as error:
        for item in error.errors(include_url=False):
            if item["type"] != "missing":
                setting = next(s for s in settings if s.name == item["loc"][0])
                raise PluginError(
                    f"{label}: the default of {setting.name!r}, {setting.default!r}, is not of its "
                    f"own type, {setting.type_name}"
                ) from error
    return model


def _parameters(factory: Factory) -> list[inspect.Parameter]:
    if inspect.isclass(factory):
        owner = next(base for base in factory.__mro__ if "__init__" in vars(base))
        # A module without a constructor of its own: torch's takes *args and refuses them itself.
        if owner is object or owner.__module__ == "torch.nn.modules.module":
            return []
    return list(inspect.signature(factory).parameters.values())


def _first_sentence(doc: str) -> str:
    paragraph = " ".join(doc.split("\n\n")[0].split())
    # Not after "e.g.": a sentence does not begin in lower case.
    found = re.match(r"(.+?[.!?])(\s+[^a-z\s]|$)", paragraph)
    return found[1] if found else paragraph


def _argument_help(doc: str) -> dict[str, str]:
    """Texts of a Google-style `Args:` section by parameter name."""
    helps: dict[str, str] = {}
    current, inside = "", False
    for line in doc.splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            inside = line == "Args:"
        elif inside and (found := re.match(r" {4}(\w+)(?: \(.*?\))?: (.*)", line)):
            current = found[1]
            helps[current] = found[2]
        elif inside and current and line.strip():
            helps[current] += " " + line.strip()
    return helps


def type_name(annotation: Any) -> str:
    """An annotation as a reader would write it."""
    if hasattr(annotation, "__metadata__"):  # Annotated
        return type_name(annotation.__origin__)
    args = getattr(annotation, "__args__", ())
    origin = str(getattr(annotation, "__origin__", ""))
    if origin == "typing.Literal":
        return " | ".join(repr(value) for value in args)
    if annotation is type(None):
        return "None"
    if type(annotation).__name__ in ("Union", "UnionType", "_UnionGenericAlias"):
        return " | ".join(type_name(arg) for arg in args)
    if isinstance(annotation, type) and not args:
        return annotation.__name__
    return re.sub(r"\b(typing|collections\.abc|pathlib)\.", "", str(annotation))
