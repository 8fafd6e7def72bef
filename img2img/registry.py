"""The registry: components by kind and name."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence

from img2img.component import KINDS, Component, Factory, describe
from img2img.errors import PluginError


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

        The factory takes `in_channels` and `out_channels`; if it names them, also `image_size`
        (pixels), `activation` (`tanh`, or `softmax` where the output is class probabilities), and
        `initialize` (False where weights are loaded right after, so none need be fetched or drawn).
        """
        self._add("generator", name, factory)

    def discriminator(self, name: str, factory: Factory) -> None:
        """Register a network (B, in_channels, H, W) -> logits.

        The factory takes `in_channels`, and `image_size` (pixels) if it names it.
        """
        self._add("discriminator", name, factory)

    def loss(self, name: str, factory: Factory) -> None:
        """Register a loss: (output, target) -> scalar, or a `JudgedLoss` (see `img2img.losses`)."""
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

    def metric(self, name: str, factory: Factory) -> None:
        """Register a metric; see `img2img.metrics.Metric`.

        The factory takes `classes`, how many there are where it is given classes, if it names it.
        """
        self._add("metric", name, factory)

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
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise PluginError(f"{label}: names are lower case letters, digits, '_', '-' and '.'")
        if clash := self._components.get((kind_name, name)):
            raise PluginError(
                f"{label}: the name is taken by {clash.origin}; one of the two must be renamed"
            )
        self._components[kind_name, name] = describe(kind, name, factory, self._origin)


def suggest(word: str, allowed: Sequence[str]) -> str:
    """A closing remark for a message: the nearest allowed name, and all of them."""
    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{hint}; possible: {', '.join(allowed)}" if allowed else hint
