"""Hostile input: some hundreds of the fuzzer's cases, what it found, and what security.md says."""

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from img2img.backbones.lookup import backbone_levels
from img2img.backbones.weights import _read
from img2img.data.opening import open_file
from img2img.data.reading import read_picture
from img2img.document import LONGEST, Document, key_lines
from img2img.engine.checkpoint import load_checkpoint
from img2img.engine.directory import RunDirectory
from img2img.engine.state import check_alike
from img2img.errors import DataError, ImageError, Img2ImgError, RecipeError, RequestError
from img2img.importing.reading import read_tensors
from img2img.names import printable
from img2img.recipe_parser import parse_recipe
from img2img.report.page import write_report

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECIPE = """
name = "x"
[task]
name = "labels"
[data]
root = "pairs"
[[losses]]
name = "l1"
[train]
steps = 5
"""


def fuzz(*arguments):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "fuzz.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def fuzzer():
    """The script as a module, with its package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("fuzz", BENCHMARKS / "fuzz.py")
        module = importlib.util.module_from_spec(spec)
        # Where dataclasses look for it.
        sys.modules["fuzz"] = module
        offline = os.environ.get("HF_HUB_OFFLINE")
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        del sys.modules["fuzz"]
        os.environ.pop("HF_HUB_OFFLINE")
        if offline is not None:
            os.environ["HF_HUB_OFFLINE"] = offline


def test_some_hundred_cases(tmp_path):
    """In processes of their own, since audit hooks and limits are for good; each names its case."""
    targets = ["recipes", "assignments", "palettes", "bundles", "checkpoints", "images", "tars"]
    targets += ["weights", "reports"]
    out = tmp_path / "outcome.json"
    done = fuzz("--cases=900", "--start=900000", f"--out={out}")
    assert done.returncode in (0, 1), done.stderr
    outcome = json.loads(out.read_text())
    assert list(outcome["targets"]) == targets
    assert sum(target["cases"] for target in outcome["targets"].values()) >= 900
    for name, target in outcome["targets"].items():
        assert target["findings"] == {}, name
        # Else nothing is tested: neither the readers behind the first check, nor that check.
        assert target["kinds"]["accepted"] > 0, name
        assert name == "reports" or len(target["kinds"]) > 1, name
        assert target["growth"] < 600, name


def test_a_case_is_its_number(fuzzer, tmp_path):
    bench = fuzzer.Bench("palettes", tmp_path)
    assert bench.content(7) == bench.content(7)
    assert len({bench.content(number) for number in range(20)}) > 10


BAD = """
import os, signal, subprocess, sys, time, socket
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from fuzzing.watching import SECONDS, Watch
import fuzzing.watching
from img2img.errors import ImageError, RequestError
fuzzing.watching.SECONDS = 0.3
folder = Path({folder!r})
watch = Watch(folder)
watch.set_limits(1 << 30)

def grow():
    try:
        bytearray(1 << 34)
    except MemoryError as error:
        raise ImageError(Path("x"), "out of memory while it was read") from error

def refuse(text):
    raise RequestError(text)

def spin():
    while True:
        try:
            sum(range(1000))
        except Exception:
            pass

acts = [
    lambda: None,
    lambda: refuse("a readable sentence"),
    lambda: {{}}["x"],
    spin,
    grow,
    lambda: refuse("red \\x1b[31m"),
    lambda: refuse("a line\\nand one that a stranger wrote"),
    lambda: refuse(""),
    lambda: (folder / "file").write_text("x"),
    lambda: os.mkdir(folder / "made"),
    lambda: subprocess.run(["true"]),
    lambda: os.system("true"),
    lambda: socket.create_connection(("127.0.0.1", 9), 0.1),
    lambda: exec(compile("1", "<input>", "exec")),
    lambda: __import__("pickle").loads(b"cos\\ngetcwd\\n."),
]
print([watch.case(act).kind for act in acts])
"""


def test_what_watches_sees_it(tmp_path):
    """Each oracle, on something that does what it is there to find."""
    text = BAD.format(benchmarks=str(BENCHMARKS), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False
    )
    kinds = json.loads(done.stdout.replace("'", '"')) if done.stdout else done.stderr
    assert kinds == ["accepted", "RequestError", *["finding"] * 13]


def test_a_crash_and_a_hang_are_findings(fuzzer, tmp_path, monkeypatch):
    class Worst:
        def valid(self):
            return []

        def make(self, rng):
            return b"x"

        def prepare(self, content, folder):
            with (folder / "count").open("ab") as file:
                file.write(content)

        def run(self, content, folder):
            count = (folder / "count").stat().st_size
            if count == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if count == 4:
                time.sleep(60)

    monkeypatch.setitem(fuzzer.TARGETS, "worst", (Worst, 1))
    monkeypatch.setattr(fuzzer, "SILENCE", 0.5)
    tally = fuzzer.run_target("worst", 0, 6, tmp_path, 1 << 30)
    assert tally.cases == 6
    assert tally.kinds == {"accepted": 4, "finding": 2}
    assert sorted(found["case"] for found in tally.findings.values()) == [1, 3]


# What it found.


@pytest.mark.parametrize(
    "text",
    [
        # Lines of keys were found by parsing a growing text again and again.
        "x = [\n" + "[1,\n2],\n" * 10_000 + "]",
        "x = [\n" + "{a = 1,\n}\n" * 5_000,
        "a." * 40_000 + "b = 1",
        "[" + "a." * 40_000 + "b]",
        "x = {" + "a." * 40_000 + "b = 1}",
        'x = """' + '\\"""' * 20_000,
        "#" * (LONGEST + 1),
        "x" * LONGEST,
        "[" * LONGEST,
        "\n" * LONGEST,
    ],
)
def test_no_recipe_takes_long_to_parse(text):
    began = time.process_time()
    try:
        Document(text, "x.toml")
    except RecipeError as error:
        assert len(str(error)) < 3000
    assert time.process_time() - began < 3


@pytest.mark.parametrize("assignment", ["a." * 40_000 + "b=1", "a=" + "1" * LONGEST])
def test_no_assignment_does(assignment):
    began = time.process_time()
    with pytest.raises(RecipeError):
        Document("", "x.toml").override([assignment])
    assert time.process_time() - began < 1


def test_lines_are_those_of_the_statements():
    text = (
        'a = """\n]\n"""\nb = \'\'\'[\n\'\'\'\nc = "[" # [\nd = [ # ]\n  "]",\n]\n[t."]\\""]\n'
        "e = '\"'\nf = \"\"\"x\"\"\"\"\"\ng = ''''a'''''\r\nh = { i = '}' }\n"
        "[[l]]\nj = 1\n[[l]]\nk = 2"
    )
    tomllib.loads(text)
    lines = dict(key_lines(text))
    assert {".".join(map(str, path)): line for path, line in lines.items()} == {
        "a": 1,
        "b": 4,
        "c": 6,
        "d": 7,
        "d.0": 7,
        't.]"': 10,
        't.]".e': 11,
        't.]".f': 12,
        't.]".g': 13,
        't.]".h': 14,
        't.]".h.i': 14,
        "l.0": 15,
        "l.0.j": 16,
        "l.1": 17,
        "l.1.k": 18,
    }


@pytest.mark.parametrize("text", ["\x1b[31m", "a\nx.toml:1: forged", "\u202e", "\x9b2J"])
def test_a_mistake_is_one_line_whatever_the_key(text, registry):
    document = Document(f"{json.dumps(text)} = 1\n{RECIPE}", f"{text}.toml")
    with pytest.raises(RecipeError) as caught:
        parse_recipe(document, registry)
    (problem,) = caught.value.problems
    assert problem.isprintable()
    assert printable(text) in problem
    assert str(ImageError(Path(text), "x")).isprintable()
    assert str(DataError(f"data.root: {text}")).isprintable()


def test_a_zip_that_unpacks_to_more_is_no_checkpoint(tmp_path):
    path = tmp_path / "latest_net_G.pth"
    torch.save({"model.1.weight": torch.zeros(1 << 18)}, path)
    assert set(read_tensors(path)) == {"model.1.weight"}
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in parts.items():
            new.writestr(name, data)
    with pytest.raises(Img2ImgError, match="would unpack to 1,0"):
        read_tensors(path)


def test_no_reader_gets_memory_for_a_claim(tmp_path):
    """Pillow asks for the 4 GiB that a chunk of a PNG claims, and Python would take them first."""
    path = tmp_path / "a"
    path.write_bytes(bytes(100))
    with open_file(path) as file:
        assert file.read(10) == bytes(10)
        assert len(file.read(1 << 60)) == 90
        assert file.read(1 << 60) == b""
        file.seek(0)
        assert len(file.read()) == 100


def test_what_a_checkpoint_says_is_held_against_the_state():
    own = {"step": 5, "rate": 0.5, "betas": [0.5, 0.9], "names": ["a"], "on": False, "no": None}
    check_alike({**own, "rate": 1, "names": [], "betas": (0.1, 1)}, own, "x")
    wrong = [
        *({**own, "step": value} for value in (-1, 1.5, True, "5", None, 2**63)),
        *({**own, "rate": value} for value in ("x", True, float("nan"), float("inf"), None, [])),
        *({**own, "betas": value} for value in ([], [0.5], ["a", "b"], 3)),
        *({**own, "on": value} for value in (0, None, "x")),
        *({**own, "names": value} for value in ("a", None, [1])),
        {},
        [],
        {**own, "more": 1},
    ]
    for values in wrong:
        with pytest.raises(ValueError, match="should"):
            check_alike(values, own, "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["optimizers"]["generator"]["groups"][0].update(lr="1"),
        lambda values: values["optimizers"]["generator"]["groups"][0].update(params=[0]),
        lambda values: values["optimizers"]["generator"]["groups"][0].pop("lr"),
        lambda values: values.update(base_rates={}),
        lambda values: values["base_rates"].update(generator=["x"]),
        lambda values: values["window"].update(steps="1"),
        lambda values: values.update(images=None),
    ],
)
def test_a_checkpoint_of_other_types_is_refused(fuzzer, tmp_path, change):
    bench = fuzzer.Checkpoints()
    values = json.loads(bench.files["state.json"])
    change(values)
    files = {**bench.files, "state.json": json.dumps(values).encode()}
    place = tmp_path / "step-00000001"
    place.mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    with pytest.raises(Img2ImgError, match="cannot be used"):
        load_checkpoint(place, bench.state)


# What docs/security.md says besides.


@pytest.mark.parametrize(
    "name", ["samples", "checkpoints", "tensorboard", "metrics.jsonl", "recipe.toml", ".lock"]
)
def test_a_run_that_leads_elsewhere_is_not_written_to(tmp_path, name):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "recipe.toml").write_text(RECIPE)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(elsewhere)
    for options in ({"resume": True, "fresh": False}, {"resume": False, "fresh": True}):
        with pytest.raises(RequestError, match="leads out of the run directory"):
            RunDirectory(run).check(**options)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "..", ".", "a/b", "a\\b", "", ".x", "a\nb", "x" * 201]
)
def test_a_recipes_name_is_a_folder_in_runs(name, registry):
    text = RECIPE.replace('"x"', json.dumps(name), 1)
    with pytest.raises(RecipeError, match="name "):
        parse_recipe(Document(text, "x.toml"), registry)


def test_the_report_holds_names_as_text(tmp_path):
    hostile = "</script><script>alert(1)</script><!--"
    (tmp_path / "recipe.toml").write_text(
        f"name = {json.dumps(hostile)}\n[{json.dumps(hostile)}]\na=1"
    )
    line = {"step": 1, "losses": {hostile: 1.0}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    template = (Path(write_report.__globals__["__file__"]).parent / "page.html").read_text()
    assert page.lower().count("<script") == template.lower().count("<script")
    assert "innerHTML" not in template
    assert "default-src 'none'" in template


def test_a_link_to_a_text_shows_nothing_of_it(tmp_path):
    """An image is read as one, or named and not shown: no file's text gets into a message."""
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    link = tmp_path / "a.png"
    link.symlink_to(secret)
    with pytest.raises(ImageError) as caught:
        read_picture(link)
    assert "the secret" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_are_never_unpickled(tmp_path):
    """`pretrained` and `img2img import`, of a file that would run a program."""

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harmed"),))

    for protocol in range(6):
        path = tmp_path / "weights.pth"
        path.write_bytes(pickle.dumps({"a": Payload()}, protocol))
        with pytest.raises(ValueError, match="cannot be read as weights"):
            _read(str(path))
        with pytest.raises(Img2ImgError):
            read_tensors(path)
        torch.save({"a": Payload()}, path)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            _read(str(path))
        with pytest.raises(Img2ImgError, match="was not read"):
            read_tensors(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:/etc", "http://x/y", "../x"]
)
def test_no_backbone_is_fetched_by_address(name):
    with pytest.raises(ValueError, match="timm has no"):
        backbone_levels(name)


def test_a_picture_of_many_pixels_is_refused_by_its_header(tmp_path):
    image = Image.fromarray(np.zeros((8, 8), np.uint8))
    image.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (1 << 20).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match="more than the limit"):
        read_picture(tmp_path / "a.png")
