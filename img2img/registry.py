"""The registry: named components of each kind, and the settings their signatures declare."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import pydantic

from img2img.errors import PluginError

Factory = Callable[..., Any]


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
        Kind("generator", frozenset({"in_channels", "out_channels"}), frozenset({"image_size"})),
        Kind(
            "discriminator",
            frozenset({"in_channels"}),
            frozenset({"image_size"}),
            frozenset({"name", "conditional"}),
        ),
        Kind("loss", reserved=frozenset({"name", "weight"})),
        Kind(
            "task", called=("encode_source", "encode_target", "decode_source", "decode_target")
        ),
        Kind(
            "source",
            optional=frozenset({"root", "split"}),
            reserved=frozenset(
                "source root direction load_size crop_size test_size mirror rotate source_color "
                "workers".split()
            ),
            called=("__len__", "pair", "name"),
        ),
        Kind(
            "method",
            optional=frozenset(
                "build_generator build_discriminator losses source_channels target_channels "
                "conditional".split()
            ),
            called=("step",),
        ),
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
        return _type_name(self.annotation)


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
        model: validates and completes a table of settings.
    """

    kind: str
    name: str
    factory: Factory
    origin: str
    summary: str
    settings: tuple[Setting, ...]
    takes: frozenset[str]
    model: type[pydantic.BaseModel] = field(repr=False)

    def build(self, settings: dict[str, Any], **supplied: Any) -> Any:
        """Construct it from validated settings and those of the supplied values that it takes."""
        given = {name: value for name, value in supplied.items() if name in self.takes}
        return self.factory(**given, **settings)


class Registry:
    """Holds components by kind and name. Built anew wherever one is needed; there is no global one.

    Plugins receive it in their `register` hook. Its methods check a factory's signature and raise
    `PluginError` for what would fail later: `**kwargs`, a parameter without annotation, a clash.
    """

    def __init__(self) -> None:
        self._components: dict[tuple[str, str], Component] = {}
        self._origin = "this program"

    def generator(self, name: str, factory: Factory) -> None:
        """Register a network (B, in_channels, H, W) -> (B, out_channels, H, W).

        The factory takes `in_channels` and `out_channels`, and `image_size` (pixels) if it names it.
        """
        self._add("generator", name, factory)

    def discriminator(self, name: str, factory: Factory) -> None:
        """Register a network (B, in_channels, H, W) -> logits.

        The factory takes `in_channels`, and `image_size` (pixels) if it names it.
        """
        self._add("discriminator", name, factory)

    def loss(self, name: str, factory: Factory) -> None:
        """Register a loss: (output, target) -> scalar, or an `AdversarialLoss`."""
        self._add("loss", name, factory)

    def task(self, name: str, factory: Factory) -> None:
        """Register a task: how image files become tensors and an output an image."""
        self._add("task", name, factory)

    def source(self, name: str, factory: Factory) -> None:
        """Register a source of pairs; it takes `root` and `split` if it names them."""
        self._add("source", name, factory)

    def method(self, name: str, factory: Factory) -> None:
        """Register what one training step does; see `img2img.methods.Method`."""
        self._add("method", name, factory)

    def names(self, kind: str) -> list[str]:
        """Names registered for a kind, sorted."""
        return sorted(name for of, name in self._components if of == kind)

    def components(self, kind: str | None = None) -> list[Component]:
        """All components, or those of one kind, in the order of kinds and names."""
        order = list(KINDS)
        found = [c for c in self._components.values() if kind in (None, c.kind)]
        return sorted(found, key=lambda c: (order.index(c.kind), c.name))

    def get(self, kind: str, name: str) -> Component:
        """The component of that kind and name.

        Raises:
            KeyError: there is none; the message names the nearest and all others.
        """
        try:
            return self._components[kind, name]
        except KeyError:
            names = self.names(kind)
            raise KeyError(f"{name!r} is not a {kind}{suggest(name, names)}") from None

    @contextlib.contextmanager
    def adding_from(self, origin: str) -> Iterator[None]:
        """What is registered inside comes from `origin`, and stays only if nothing is raised."""
        before, self._origin = dict(self._components), origin
        try:
            yield
        except BaseException:
            self._components = before
            raise
        finally:
            self._origin = "this program"

    def _add(self, kind_name: str, name: str, factory: Factory) -> None:
        kind = KINDS[kind_name]
        label = f"{kind_name} {name!r} from {self._origin}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise PluginError(f"{label}: names are lower case letters, digits, '_', '-' and '.'")
        if clash := self._components.get((kind_name, name)):
            raise PluginError(
                f"{label}: the name is taken by {clash.origin}; one of the two must be renamed"
            )
        settings, takes = _read_signature(kind, factory, label)
        doc = inspect.getdoc(factory) or ""
        fields: dict[str, Any] = {
            s.name: (s.annotation, ... if s.required else s.default) for s in settings
        }
        try:
            model = pydantic.create_model(
                f"{kind_name}.{name}",
                __config__=pydantic.ConfigDict(
                    extra="forbid", arbitrary_types_allowed=False, protected_namespaces=()
                ),
                **fields,
            )
        except (pydantic.errors.PydanticSchemaGenerationError, NameError) as error:
            raise PluginError(
                f"{label}: a setting's type cannot come from a recipe ({error}); use numbers, "
                f"strings, booleans, Literal, or sequences of these"
            ) from error
        self._components[kind_name, name] = Component(
            kind_name,
            name,
            factory,
            self._origin,
            _first_sentence(doc),
            settings,
            takes,
            model,
        )


def suggest(word: str, allowed: Sequence[str]) -> str:
    """A closing remark for a message: the nearest allowed name, and all of them."""
    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; there is {', '.join(allowed)}" if allowed else hint


def _read_signature(
    kind: Kind, factory: Factory, label: str
) -> tuple[tuple[Setting, ...], frozenset[str]]:
    if not callable(factory):
        raise PluginError(f"{label}: a factory must be a class or a function, not {factory!r}")
    if inspect.isclass(factory):
        missing = [name for name in kind.called if not hasattr(factory, name)]
        if missing:
            raise PluginError(f"{label}: a {kind.name} must have {', '.join(missing)}")
    target = factory.__init__ if inspect.isclass(factory) else factory
    try:
        hints = get_type_hints(target, include_extras=True)
    except Exception as error:
        raise PluginError(f"{label}: its annotations cannot be read ({error})") from error
    helps = _argument_help(inspect.getdoc(factory) or "")
    settings, takes = [], set()
    for parameter in _parameters(factory):
        name = parameter.name
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise PluginError(
                f"{label}: *args and **kwargs are refused, because a typo in a recipe would vanish "
                f"in them; name the settings"
            )
        if name in kind.supplied:
            takes.add(name)
        elif name in kind.reserved:
            raise PluginError(f"{label}: {name!r} is a key of the recipe's table itself; rename it")
        elif parameter.kind is parameter.POSITIONAL_ONLY or name not in hints:
            raise PluginError(
                f"{label}: parameter {name!r} needs an annotation and must be usable as a keyword, "
                f"because the signature is the schema"
            )
        else:
            settings.append(Setting(name, hints[name], parameter.default, helps.get(name, "")))
    lacking = sorted(kind.required - takes)
    if lacking:
        raise PluginError(f"{label}: a {kind.name} must take {', '.join(lacking)}")
    return tuple(settings), frozenset(takes)


def _parameters(factory: Factory) -> list[inspect.Parameter]:
    if inspect.isclass(factory):
        owner = next(base for base in factory.__mro__ if "__init__" in vars(base))
        # A module without a constructor of its own: torch's takes *args and refuses them itself.
        if owner is object or owner.__module__ == "torch.nn.modules.module":
            return []
    return list(inspect.signature(factory).parameters.values())


def _first_sentence(doc: str) -> str:
    paragraph = " ".join(doc.split("\n\n")[0].split())
    found = re.match(r"(.+?[.!?])(\s|$)", paragraph)
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


def _type_name(annotation: Any) -> str:
    args = getattr(annotation, "__args__", ())
    origin = str(getattr(annotation, "__origin__", ""))
    if origin == "typing.Literal":
        return " | ".join(repr(value) for value in args)
    if annotation is type(None):
        return "None"
    if type(annotation).__name__ in ("Union", "UnionType", "_UnionGenericAlias"):
        return " | ".join(_type_name(arg) for arg in args)
    if isinstance(annotation, type) and not args:
        return annotation.__name__
    return re.sub(r"\b(typing|collections\.abc|pathlib)\.", "", str(annotation))
