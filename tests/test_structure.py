"""The house rules: which module may know which, and what stays light."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import img2img
from img2img import hookspecs

ROOT = Path(img2img.__file__).parent

# From the bottom up. A module may import from its own row and from those above it in this list.
LAYERS = (
    ("errors", "files", "hookspecs", "hub", "layers", "names", "picture", "signals", "tensor_file"),
    ("backbones",),
    ("download",),
    ("tasks", "data", "generators", "discriminators", "losses", "metrics"),
    ("methods",),
    ("component", "document", "presets"),
    ("registry",),
    ("builtins",),
    ("plugins",),
    ("recipe", "table"),
    ("description",),
    ("bundle",),
    ("construction",),
    ("recipe_tables",),
    ("recipe_files", "recipe_parser"),
    ("inference",),
    ("evaluation", "report"),
    ("engine",),
    ("environment",),
    ("assemble", "rebuild"),
    ("pairs_folder",),
    ("held_out",),
    ("bench", "importing", "exporting", "resuming", "study"),
    ("training",),
    ("comparison",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
COMPONENTS = ("tasks", "data", "generators", "discriminators", "losses", "methods", "metrics")
# What components may use of ours, besides each other.
FOUNDATIONS = ("errors", "files", "hub", "layers", "names", "picture", "backbones")


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(tree, *, typing=False):
    """Modules that a file imports, wherever in it; those for type checkers only on request."""
    found = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if is_type_checking(node) and not typing:
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports would escape this test"
            # `from package import module` names a module, `from module import thing` does not.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return found


def ours(tree, **options):
    return {name for name in imported(tree, **options) if name.split(".")[0] == "img2img"}


def part(module):
    """`data` of `img2img.data.images`."""
    return module.split(".")[1]


# The package itself is the face: it may fetch anything, but only inside its functions.
INNER = [name for name in FILES if name != "img2img"]
IMPORTS = {name: ours(TREES[name]) - {"img2img"} for name in INNER}


def test_every_module_has_a_place():
    assert {part(name) for name in INNER} == set(RANK)


@pytest.mark.parametrize("name", INNER)
def test_imports_point_down(name):
    # What has no place yet fails the test above, not this one.
    here = RANK.get(part(name), len(LAYERS))
    above = {other for other in IMPORTS[name] if RANK.get(part(other), 0) > here}
    assert not above, f"{name} lies below these, and imports them"


@pytest.mark.parametrize("name", [name for name in INNER if part(name) in COMPONENTS])
def test_components_know_no_registry(name):
    allowed = {*COMPONENTS, *FOUNDATIONS}
    # Annotations count here: a component that is handed a recipe would have to name its type.
    assert {part(other) for other in ours(TREES[name], typing=True)} <= allowed


@pytest.mark.parametrize("name", [n for n in INNER if part(n) in ("generators", "discriminators")])
def test_networks_are_torch_and_little_else(name):
    outside = {other.split(".")[0] for other in imported(TREES[name], typing=True)}
    assert outside <= {"img2img", "torch", "__future__", "collections", "math", "typing"}
    assert {part(other) for other in ours(TREES[name])} <= {part(name), "layers", "backbones"}


def test_no_two_modules_import_each_other():
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(" -> ".join([*path[path.index(name) :], name]))
        if name in done or name not in IMPORTS:
            return
        path.append(name)
        for other in sorted(IMPORTS[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in INNER:
        visit(name)
    assert done == set(INNER)


def test_nothing_imports_the_face():
    """`import img2img` from within would tie every module to every other."""
    importing = {name for name in INNER if "img2img" in ours(TREES[name])}
    assert not importing


def test_one_module_knows_albumentations():
    """It is the last release under a free licence, and will be replaced one day."""
    knowing = [n for n, tree in TREES.items() if "albumentations" in imported(tree, typing=True)]
    assert knowing == ["img2img.data.augmentation"]


def test_one_package_knows_timm():
    knowing = [
        name
        for name, tree in TREES.items()
        if "timm" in {other.split(".")[0] for other in imported(tree, typing=True)}
    ]
    assert {part(name) for name in knowing} == {"backbones"}


def test_import_time_holds_no_registry():
    """No global registry: nothing at module level makes one."""
    for name, tree in TREES.items():
        for statement in tree.body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)):
                continue
            calls = [n for n in ast.walk(statement) if isinstance(n, ast.Call)]
            called = {ast.unparse(call.func) for call in calls}
            assert not called & {"Registry", "load_plugins"}, name


# What stays light

HEAVY = ("torch", "numpy", "cv2", "PIL", "albumentations", "torchmetrics", "timm")


def loaded_after(code):
    """Top-level modules that are loaded once `code` has run in a fresh interpreter."""
    script = (
        f"import sys\n{code}\nprint('LOADED', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT.parent,
        check=True,
    )
    return done.stdout.split("LOADED ")[1].split(), done.stdout


def test_import_loads_nothing_heavy():
    loaded, _ = loaded_after("import img2img")
    assert "img2img" in loaded
    assert not set(loaded) & {*HEAVY, "pydantic", "typer"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["infer", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    loaded, shown = loaded_after(
        f"sys.argv = ['img2img', *{arguments!r}]\n"
        "from img2img.cli import main\n"
        "try:\n    code = main()\nexcept SystemExit as exit:\n    code = exit.code\n"
        "assert code in (0, None), code"
    )
    assert "Usage" in shown
    assert not set(loaded) & set(HEAVY)


def test_registering_the_built_ins_loads_no_timm():
    loaded, _ = loaded_after(
        "from img2img.plugins import load_plugins\nload_plugins(entry_points=False)"
    )
    assert "torch" in loaded
    assert not set(loaded) & {"timm", "torchvision", "torchmetrics", "albumentations"}


# Documentation

HOOKS = [
    hook
    for hook in vars(hookspecs).values()
    if inspect.isfunction(hook) and hasattr(hook, "img2img_spec")
]


def test_there_are_hooks():
    assert {"register", "on_run_start", "on_metrics", "on_samples"} <= {h.__name__ for h in HOOKS}


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_documented(hook):
    doc = inspect.getdoc(hook)
    assert doc
    assert len(doc.split("\n")[0]) > 10
    documented = re.findall(r"^ {4}(\w+): \S", doc, flags=re.MULTILINE)
    assert documented == list(inspect.signature(hook).parameters)


def test_every_module_and_public_class_has_a_docstring():
    lacking = []
    for name, tree in TREES.items():
        if tree.body and not ast.get_docstring(tree):
            lacking.append(name)
        for node in tree.body:
            if (
                isinstance(node, ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                lacking.append(f"{name}.{node.name}")
    assert lacking == []
