"""TOML with the line of every key, and `--set` on top."""

import random
import time

import pytest

from img2img.document import Document, key_lines, parse_assignment
from img2img.errors import RecipeError
from img2img.recipe_files import shipped_recipes
from img2img.recipe_parser import parse_recipe


def lines(text):
    found = list(key_lines(text))
    assert len({path for path, _ in found}) == len(found), "a key has two lines"
    return {".".join(map(str, path)): line for path, line in found}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb = 2\n", {"a": 1, "b": 2}),
        ("\n# a comment\n\na = 1 # more\n", {"a": 4}),
        ("[t]\na = 1\n[t.u]\nb = 2\n", {"t": 1, "t.a": 2, "t.u": 3, "t.u.b": 4}),
        ("  [ t . u ]  # indented\n  a = 1\n", {"t.u": 1, "t.u.a": 2}),
        ("a.b.c = 1\n[t]\nd.e = 2\n", {"a": 1, "a.b": 1, "a.b.c": 1, "t": 2, "t.d": 3, "t.d.e": 3}),
        (
            "[[l]]\na = 1\n\n[[l]]\na = 2\nb = 3\n",
            {"l.0": 1, "l.0.a": 2, "l.1": 4, "l.1.a": 5, "l.1.b": 6},
        ),
        # A table below the entry that was opened last.
        (
            "[[l]]\n[l.x]\na = 1\n[[l]]\n[l.x]\na = 2\n",
            {"l.0": 1, "l.0.x": 2, "l.0.x.a": 3, "l.1": 4, "l.1.x": 5, "l.1.x.a": 6},
        ),
        (
            "[[l]]\n[[l.m]]\na = 1\n[[l.m]]\n[[l]]\n[[l.m]]\na = 2\n",
            {
                "l.0": 1,
                "l.0.m.0": 2,
                "l.0.m.0.a": 3,
                "l.0.m.1": 4,
                "l.1": 5,
                "l.1.m.0": 6,
                "l.1.m.0.a": 7,
            },
        ),
        ('a = """\n[no.table]\nb = 1\n"""\nc = 2\n', {"a": 1, "c": 5}),
        ("a = '''one'''\nb = '''\n]\n'''\nc = 2\n", {"a": 1, "b": 2, "c": 5}),
        (
            "a = [ # numbers\n  1,\n  [2,\n   3], # ]\n]\nb = 4\n",
            {"a": 1, "a.0": 1, "a.1": 1, "a.1.0": 1, "a.1.1": 1, "b": 6},
        ),
        (
            "a = { b = 1, c = [2] }\nd = [{ e = 3 }]\n",
            {"a": 1, "a.b": 1, "a.c": 1, "a.c.0": 1, "d": 2, "d.0": 2, "d.0.e": 2},
        ),
        ("\"a b\".'c.d' = 1\n", {"a b": 1, "a b.c.d": 1}),
        ("[t]\r\na = [\r\n1,\r\n]\r\nb = 2\r\n", {"t": 1, "t.a": 2, "t.a.0": 2, "t.b": 5}),
        # Line separators for Python, but not for TOML.
        ("# one\u2028two\x85three\na = 'x\u2029y'\nb = 2\n", {"a": 2, "b": 3}),
        ("a = 1\nb = 2", {"a": 1, "b": 2}),
        ("", {}),
    ],
)
def test_every_key_has_its_line(text, expected):
    assert lines(text) == expected


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_lines_of_a_real_recipe(name):
    """Each `key =` of a file is found on the very line that holds it."""
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    rows = text.splitlines()
    found = lines(text)
    assert len(found) > 15
    for key, line in found.items():
        table, _, last = key.rpartition(".")
        # An entry of a list is where its table's header is, or on the line of the list's key.
        expected = "[[losses]]" if table == "losses" else table.rpartition(".")[2]
        start = expected if last.isdecimal() else last
        # A quoted key may hold dots of its own.
        quoted = f'"{(table if last.isdecimal() else key).partition(".vary.")[2]}"'
        assert rows[line - 1].startswith((start, f"[{key}]", quoted))


def test_long_arrays_and_strings_are_quick():
    text = "a = [\n" + "1,\n" * 4000 + "]\nb = '''\n" + "x\n" * 4000 + "'''\nc = 1\n"
    start = time.perf_counter()
    found = lines(text)
    assert (found["a"], found["b"], found["c"]) == (1, 4003, 8005)
    assert time.perf_counter() - start < 2


def test_where_falls_back_to_the_table_and_then_the_file():
    document = Document("[t]\na = 1\n", "x.toml")
    assert document.where(("t", "a")) == "x.toml:2"
    assert document.where(("t", "missing")) == "x.toml:1"
    assert document.where(("missing", "deep")) == "x.toml"


# --set


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("a=1", ["a"], 1),
        ("a.b.c = 1e-3", ["a", "b", "c"], 0.001),
        ("a=true", ["a"], True),
        ("a=[1, 2]", ["a"], [1, 2]),
        ("a={ b = 'c' }", ["a"], {"b": "c"}),
        ('a="1"', ["a"], "1"),
        ("a=hello world", ["a"], "hello world"),
        ("a=data/shoes", ["a"], "data/shoes"),
        ("a=True", ["a"], "True"),
        ("a=x=y", ["a"], "x=y"),
        ("a=", ["a"], ""),
        # Not a second statement.
        ("a=1\nb=2", ["a"], "1\nb=2"),
        ('"a b".c=1', ["a b", "c"], 1),
    ],
)
def test_assignment(assignment, path, value):
    assert parse_assignment(assignment) == (path, value)


def test_overrides_and_where_they_came_from():
    document = Document(
        '[t]\na = 1\nb = { c = 2 }\n[[l]]\nname = "x"\nw = 1\n[[l]]\nname = "y"\n', "x.toml"
    )
    document.override(["t.a=5", "l.y.w=6", "l.0.w=7", "t.b={c = 8}", "new.deep.key=9", "t.a=10"])
    assert document.data == {
        "t": {"a": 10, "b": {"c": 8}},
        "l": [{"name": "x", "w": 7}, {"name": "y", "w": 6}],
        "new": {"deep": {"key": 9}},
    }
    assert document.where(("t", "a")) == "--set t.a=10"
    assert document.where(("l", 1, "w")) == "--set l.y.w=6"
    assert document.where(("l", 0, "w")) == "--set l.0.w=7"
    # What was on line 3 is gone with what replaced it.
    assert document.where(("t", "b", "c")) == "--set t.b={c = 8}"
    assert document.where(("new", "deep", "key")) == "--set new.deep.key=9"
    assert document.where(("l", 0, "name")) == "x.toml:5"


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("t.a", "expected key=value"),
        ("=1", "is not a key"),
        ("a b=1", "'a b' is not a key"),
        ("a.=1", "is not a key"),
        ("t.a.x=1", "t.a is a value and has no keys"),
        ("l.z.w=1", "'z' is no entry of that list, which has x"),
        ("l.3.w=1", "'3' is no entry of that list"),
        ("t.a=" + "9" * 30, "does not fit in 64 bits"),
        ("t.a=" + "9" * 6000, "does not fit in 64 bits"),
        ("t.a=0x" + "f" * 6000, "does not fit in 64 bits"),
        ("t.a=nan", "nan"),
        ("t.a=" + "[" * 500 + "]" * 500, "nested too deeply"),
        ("t.a=" + "[" * 5000, "nested too deeply"),
        (".".join("k" * 100) + "=1", "nested too deeply"),
        ("t.a=\udcff", "not text in UTF-8"),
    ],
)
def test_wrong_assignments(assignment, reason):
    document = Document('[t]\na = 1\n[[l]]\nname = "x"\n', "x.toml")
    with pytest.raises(RecipeError) as caught:
        document.override(["t.c=1", assignment, "none"])
    first, second = caught.value.problems
    # Fit for a terminal, and of a length that somebody reads.
    given = assignment.replace("\udcff", r"\xff")
    assert first.startswith(f"--set {given}"[:1000])
    assert reason in first[-1000:].removeprefix(f"--set {given}")
    assert first.isprintable()
    assert len(first) < 2100
    assert second == "--set none: expected key=value"


# What is no recipe


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\nb = = 2\n", "x.toml:2: "),
        ("a = 1\na = 2\n", "x.toml:2: "),
        ("[t]\n\n[t]\n", "x.toml:3: "),
        ("a = [1,\n2\n", "x.toml:2: "),
        ('a = """\nb\nc', "x.toml:3: "),
        ("a = 1\n\x01", "x.toml:2: "),
        ("a = 2020-13-45\n", "x.toml:1: "),
        ("a = 1\nb = " + "1" * 5000 + "\n", "x.toml: "),
        ("a = 1\nb = 0x" + "f" * 20 + "\n", "x.toml:2: b "),
        ("a = 1\nb = [0, nan]\n", "x.toml:2: b.1 "),
        ("a = " + "[" * 100 + "]" * 100 + "\n", "x.toml: nested too deeply"),
        ("a = " + "[" * 5000 + "]" * 5000 + "\n", "x.toml: nested too deeply"),
        (".".join("k" * 2000) + " = 1\n", "x.toml: nested too deeply"),
        ("[" + ".".join("k" * 2000) + "]\n", "x.toml: nested too deeply"),
    ],
)
def test_what_is_no_toml_is_said_with_its_line(text, place):
    with pytest.raises(RecipeError) as caught:
        Document(text, "x.toml")
    (problem,) = caught.value.problems
    assert problem.startswith(place)
    assert "\n" not in problem


def test_reading_files(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'shoes'\r\n")
    assert Document.read(path).data == {"name": "shoes"}
    path.write_bytes(b"name = '\xff'\n")
    with pytest.raises(RecipeError, match=r"x\.toml: not a text file in UTF-8"):
        Document.read(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        Document.read(tmp_path)
    with pytest.raises(RecipeError, match="cannot be read"):
        Document.read(tmp_path / "none.toml")


TOKENS = [
    *"[]{}=.,#\"'\\\n\r\t\0 -+_",
    *("true", "nan", "inf", "1e999", "0x", "1979-05-27", "name", "steps", "weight"),
    *("[[", "]]", "{}", "[]", "'''", '"""', "\u2028", "\ud7ff", " = 1\n", "[train]\n"),
]


def mutated(text, rng):
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text) + 1), rng.choice((0, 0, 1, 1, 3, 20))
        kind = rng.random()
        if kind < 0.6:
            new = rng.choice(TOKENS)
        elif kind < 0.8:
            start = rng.randrange(len(text) + 1)
            new = text[start : start + rng.randrange(40)]
        else:
            new = ""
        text = text[:at] + new + text[at + length :]
    return text


def test_mutated_recipes_raise_nothing_but_recipe_errors(registry):
    base = shipped_recipes()["quickstart"].read_text(encoding="utf-8")
    rng = random.Random(20)
    valid, slowest = 0, 0.0
    for _ in range(3000):
        text = mutated(base, rng)
        start = time.perf_counter()
        try:
            recipe = parse_recipe(Document(text, "x.toml"), registry)
        except RecipeError as error:
            assert error.problems
            assert all(problem.startswith(("x.toml:", "--set")) for problem in error.problems)
        else:
            valid += 1
            assert parse_recipe(Document(recipe.to_toml(), "x.toml"), registry) == recipe
        slowest = max(slowest, time.perf_counter() - start)
    # Some must stay valid and most must not, or this tests nothing.
    assert 50 < valid < 2000
    assert slowest < 2


@pytest.mark.parametrize("count", [40, 2000])
def test_any_number_of_mistakes_is_a_message_with_an_end(count):
    text = "".join(f"key{i:04} = {10**30}\n" for i in range(count))
    with pytest.raises(RecipeError) as caught:
        Document(text, "a.toml")
    told = str(caught.value).splitlines()
    assert len("\n".join(told)) < 20_000
    assert told[0].startswith("a.toml:1: key0000 ")
    if count == 40:
        assert len(told) == 40
    else:
        assert told[-1] == f"and {count - len(told) + 1:,} more mistakes"
        assert len(told) > 100
