"""Recipes, `--set` strings, palettes and run directories that strangers wrote."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fuzzing.mutators import TEXTS, any_value, mutate_bytes, mutate_text, mutate_tree, nested
from img2img.document import Document
from img2img.errors import RequestError
from img2img.plugins import load_plugins
from img2img.recipe_files import shipped_recipes
from img2img.recipe_parser import load_recipe, parse_recipe
from img2img.registry import Registry
from img2img.report.page import write_report

LINES = (
    *(
        "[data]",
        "[[losses]]",
        "[losses]",
        "[generator]",
        "a.b.c = 1",
        "data.root = 'x'",
        "[a.b.c.d]",
    ),
    *(
        'name = "../../x"',
        'name = "."',
        'name = """a',
        '"""',
        "'''",
        "[",
        "]",
        "{",
        "}",
        "=",
        "#",
        "\\",
    ),
    *(
        'requires = ["x @ file:///etc"]',
        'requires = ["torch<1"]',
        "x = [[[[[[",
        "x = {a = {b = {}}}",
    ),
    *("train.steps = 1e3", "train.steps = 0x10", "train = 5", "weight = nan", "weight = -inf"),
    *(
        "d = 2026-11-22T07:32:00Z",
        "t = 07:32:00",
        "[[data]]",
        "[train.steps]",
        '"" = 1',
        '"a\\u0000" = 1',
    ),
    *("1 = 2", '"\\u202e" = "\\u001b[31m"', "[" * 200, "a." * 500 + "b = 1", "x = " + "9" * 5000),
)


def registry() -> Registry:
    """The built-in components."""
    return load_plugins(entry_points=False).registry


class Recipes:
    """Parses a recipe, and what of it is valid again as `recipe.toml` would be."""

    def __init__(self) -> None:
        self.registry = registry()
        self.texts = [path.read_text(encoding="utf-8") for path in shipped_recipes().values()]
        self.trees = [tomllib.loads(text) for text in self.texts]
        self.words = (*TEXTS, *sorted({key for tree in self.trees for key in _keys(tree)}))

    def valid(self) -> list[bytes]:
        return [text.encode() for text in self.texts]

    def make(self, rng: random.Random) -> bytes:
        if rng.random() < 0.6:
            tree = mutate_tree(rng, rng.choice(self.trees), self.words)
            try:
                text = tomli_w.dumps(tree)
            # What TOML has no word for: null, or a table that became a number.
            except (TypeError, ValueError, AttributeError):
                text = mutate_text(rng, rng.choice(self.texts), LINES)
        else:
            text = mutate_text(rng, rng.choice(self.texts), LINES)
        data = text.encode("utf-8", "surrogatepass")
        return (
            mutate_bytes(rng, data, [b"\0", b"\xff\xfe", b"\xef\xbb\xbf"])
            if rng.random() < 0.1
            else data
        )

    def prepare(self, content: bytes, folder: Path) -> None:
        (folder / "recipe.toml").write_bytes(content)

    def run(self, content: bytes, folder: Path) -> None:
        recipe = load_recipe(folder / "recipe.toml", self.registry)
        place = Path("runs") / recipe.name
        assert place.parent == Path("runs") and place.name not in ("", ".", ".."), place
        again = parse_recipe(Document(recipe.to_toml(), "recipe.toml"), self.registry)
        assert again == recipe, "it is another when it is read back"


class Assignments(Recipes):
    """Applies `--set` strings to a recipe that is valid."""

    def valid(self) -> list[bytes]:
        texts = ["train.steps=5", "losses.l1.weight=3", 'data.root="x"', "discriminator=false"]
        return [json.dumps(texts).encode()]

    def make(self, rng: random.Random) -> bytes:
        keys = (
            "train.steps",
            "data.root",
            "losses.l1.weight",
            "losses.0.name",
            "generator",
            "task",
        )
        likely = (
            "1",
            "2",
            "0.5",
            "true",
            "false",
            '"x"',
            "64",
            '"unet"',
            "{name = 'resnet'}",
            "[1]",
        )
        found = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            key = rng.choice((*keys, *keys, rng.choice(self.words), "losses.-1", "train.steps.x"))
            hostile = (rng.choice(TEXTS), str(any_value(rng)), repr(nested(rng)), "[" * 999)
            value = rng.choice(likely if rng.random() < 0.5 else hostile)
            text = f"{key}{rng.choice(('=', '=', '=', ' = ', '==', '', '.='))}{value}"
            found.append(mutate_text(rng, text, LINES) if rng.random() < 0.3 else text)
        return json.dumps(found).encode()

    def prepare(self, content: bytes, folder: Path) -> None:
        pass

    def run(self, content: bytes, folder: Path) -> None:
        document = Document(self.texts[len(content) % len(self.texts)], "recipe.toml")
        recipe = parse_recipe(document, self.registry, json.loads(content))
        assert parse_recipe(Document(recipe.to_toml(), "again"), self.registry) == recipe


class Palettes(Recipes):
    """Palettes in a recipe's `[task]`, and label maps of the tasks that took them."""

    def __init__(self) -> None:
        super().__init__()
        self.image = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        self.tree = tomllib.loads(shipped_recipes()["facades"].read_text(encoding="utf-8"))

    def valid(self) -> list[bytes]:
        tasks = [{"name": "labels", "palette": [[0, 0, 0], [255, 9, 9]], "encoding": "onehot"}]
        tasks.append({"name": "photo2labels", "palette": "facades"})
        return [tomli_w.dumps({**self.tree, "task": task}).encode() for task in tasks]

    def make(self, rng: random.Random) -> bytes:
        count = rng.choice((0, 1, 2, 3, 12, 255, 256, 257, 300))
        colours: Any = [[rng.randrange(256) for _ in range(3)] for _ in range(count)]
        if rng.random() < 0.7:
            colours = mutate_tree(rng, [colours or "facades"])
            colours = colours[0] if isinstance(colours, list) and colours else colours
        task = {"name": rng.choice(("labels", "photo2labels")), "palette": colours}
        if task["name"] == "labels":
            task["encoding"] = rng.choice(("rgb", "onehot", rng.choice(TEXTS)))
        try:
            text = tomli_w.dumps({**self.tree, "task": task})
        except (TypeError, ValueError):
            text = tomli_w.dumps({**self.tree, "task": {**task, "palette": rng.choice(TEXTS)}})
        return text.encode("utf-8", "surrogatepass")

    def run(self, content: bytes, folder: Path) -> None:
        recipe = load_recipe(folder / "recipe.toml", self.registry)
        component = self.registry.get("task", recipe.task.name)
        try:
            task = component.build(recipe.task.settings)
        # What `assemble` tells with file and line.
        except ValueError as error:
            raise RequestError(str(error)) from error
        encoded = (task.encode_source(self.image), task.encode_target(self.image))
        task.decode_target(encoded[1], encoded[0])
        task.misfit(self.image, self.image)


class Reports:
    """Draws `report.html` of a run directory that came from elsewhere."""

    def __init__(self) -> None:
        text = shipped_recipes()["facades"].read_text(encoding="utf-8")
        line = {"step": 5, "losses": {"l1": 0.5}, "validation": {"l1": 0.1}, "images_per_s": 3.5}
        self.parts: dict[str, Any] = {
            "recipe.toml": tomllib.loads(text),
            "environment.json": {"torch": "2", "parameters": {"generator": 1000}, "plugins": ["a"]},
            "metrics.jsonl": [line, {**line, "step": 10, "elapsed_s": 4.5, "images": 40}],
        }

    def valid(self) -> list[bytes]:
        return [json.dumps(self.parts).encode()]

    def make(self, rng: random.Random) -> bytes:
        return json.dumps(mutate_tree(rng, self.parts)).encode()

    def prepare(self, content: bytes, folder: Path) -> None:
        parts = json.loads(content)
        parts = parts if isinstance(parts, dict) else {"metrics.jsonl": parts}
        for name in self.parts:
            value = parts.get(name)
            lines = value if isinstance(value, list) else [value]
            text = "\n".join(json.dumps(line) for line in lines)
            if name == "recipe.toml":
                try:
                    text = tomli_w.dumps(value)
                except (TypeError, ValueError, AttributeError):
                    text = str(value)
            (folder / name).write_text(text, encoding="utf-8", errors="replace")

    def run(self, content: bytes, folder: Path) -> None:
        page = write_report(folder).read_text(encoding="utf-8")
        begin = page.index('type="application/json"')
        block = page[page.index(">", begin) + 1 : page.index("</script", begin)]
        assert "<" not in block, "a text of the recipe ends the block that it stands in"
        json.loads(block)


def _keys(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [key for inner in tree for key in _keys(inner)]
    if not isinstance(tree, dict):
        return []
    return [*tree, *(key for inner in tree.values() for key in _keys(inner))]
