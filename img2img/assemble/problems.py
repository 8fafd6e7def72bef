"""What components refuse when a recipe is assembled, each with file and line of its table."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from img2img.component import Component
from img2img.document import KeyPath
from img2img.engine.loss_state import unfit_tensors
from img2img.errors import RecipeError
from img2img.recipe import Choice, Recipe
from img2img.table import dotted
from img2img.tasks.base import Task


class Problems:
    """Collects what components refuse, each with file and line of its table in the recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.found: list[str] = []

    def add(self, key: KeyPath, message: object) -> None:
        self.found.append(f"{self.recipe.where(key)}: {dotted(key)}: {message}")

    def build(self, key: KeyPath, component: Component, choice: Choice, **supplied: Any) -> Any:
        try:
            return component.build(choice.settings, **supplied)
        except RefusalError as refused:
            self.add((refused.table,), refused)
        except ValueError as error:
            self.add(key, error)
        return None

    def try_loss(self, key: KeyPath, name: str, loss: Any, task: Task | None) -> None:
        """Call a reconstruction loss once, so that one that refuses the crops says so now.

        A copy is called, because a loss may count or average what it sees, and these are no images.
        What it keeps is looked at after that, when there is also what the first call makes.
        """
        if task is None:
            return
        size = self.recipe.data.crop_size
        blank = torch.zeros(2, task.target_channels, size, size)
        tried = _copied(loss)
        try:
            with torch.no_grad():
                value = tried(blank, blank)
        except ValueError as error:
            self.add(key, f"{name}: {error}")
        except Exception as error:
            self.add(key, f"{name} fails on {tuple(blank.shape)}: {type(error).__name__}: {error}")
        else:
            if not isinstance(value, torch.Tensor) or value.ndim != 0:
                self.add(key, f"{name} should give a scalar tensor, one number for the batch")
            for told in unfit_tensors(tried) if isinstance(tried, nn.Module) else ():
                self.add(key, f"{name} {told}")

    def watch(self, table: str, builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        """The builder, its refusals marked with their own table rather than the method's."""

        def build(*args: int) -> nn.Module:
            try:
                return builder(*args)
            except ValueError as error:
                raise RefusalError(table, error) from error

        return build

    def raise_any(self) -> None:
        if self.found:
            raise RecipeError(self.found)


class RefusalError(Exception):
    """A network's own message, on its way out through the method that wanted it."""

    def __init__(self, table: str, error: ValueError) -> None:
        self.table = table
        super().__init__(str(error))


def _copied(loss: Any) -> Any:
    """A copy of a loss; the loss itself where it cannot be copied."""
    lazy = filter(is_lazy, loss.parameters()) if isinstance(loss, nn.Module) else ()
    try:
        # Weights that get shape and values in the first call share them, so that torchrun's
        # processes do not each draw their own in the first step.
        return copy.deepcopy(loss, {id(weight): weight for weight in lazy})
    # A stranger's may hold anything.
    except Exception:
        return loss
