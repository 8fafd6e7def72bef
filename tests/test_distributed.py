"""Several processes that train one model: the same as one, said once, ended together."""

import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.utils.tensorboard.writer  # before it is forked, not in each process
import torchmetrics.functional.image  # noqa: F401  # likewise
from safetensors.torch import load_file
from torch import nn

import img2img
from img2img import training
from img2img.assemble import assemble
from img2img.cli import main as command_line
from img2img.data.loading import Batch
from img2img.engine import gradients, link
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.engine.gradients import MeanGradients, average_statistics, buckets, make_alike
from img2img.engine.joining import joined
from img2img.engine.processes import Processes, from_environment
from img2img.errors import DataError, Img2ImgError, RequestError, SaidElsewhere
from img2img.layers import SyncBatchNorm
from img2img.resuming import _check_batch

RECIPE = """
name = "tiny"
[task]
name = "edges"
[data]
source = "synthetic"
count = 12
size = 40
load_size = 36
crop_size = 32
workers = 0
[generator]
width = 4
dropout = 0.0
[discriminator]
name = "patchgan16"
width = 4
[[losses]]
name = "adversarial"
[[losses]]
name = "l1"
weight = 10
[train]
steps = 6
batch_size = 2
precision = "float32"
log_every = 1
sample_every = 100
checkpoint_every = 100
"""
# A process whose first backward pass comes after a `torch.export`, as the tests of exports bring
# about, starts threads with it, and what is forked from it can train no more. So it is done now,
# before any test.
torch.ones(1, requires_grad=True).sum().backward()
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Started:
    """Processes forked from this one, which has torch already, in the variables of torchrun."""

    def __init__(self, count, work, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.outputs = [folder / f"output-{rank}.txt" for rank in range(count)]
        context = multiprocessing.get_context("fork")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads while forking
            self.processes = [
                context.Process(target=self._run, args=(rank, count, port, work))
                for rank in range(count)
            ]
            for process in self.processes:
                process.start()

    def _run(self, rank, count, port, work):
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ["LOCAL_WORLD_SIZE"] = str(count)
        handle = os.open(self.outputs[rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        # pytest has put others in their place.
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        torch.set_num_threads(1)
        work(rank)

    def codes(self, seconds=60):
        """Exit codes, once all have ended."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.1, until - time.monotonic()))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, self.said()
        return [process.exitcode for process in self.processes]

    def said(self):
        return "".join(path.read_text() for path in self.outputs)


def together(count, work, folder):
    started = Started(count, work, folder)
    codes = started.codes()
    assert codes == [0] * count, started.said()


def train(rank, recipe, out, resume=False, **overrides):
    img2img.train(recipe, out=out, resume=resume, device="cpu", overrides=dotted(overrides))


def dotted(overrides):
    return {name.replace("__", "."): value for name, value in overrides.items()}


def command(rank, *arguments):
    sys.argv = ["img2img", *map(str, arguments)]
    command_line()


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


def everything(out):
    newest = find_checkpoints(RunDirectory(out))[-1]
    tensors = {}
    for path in sorted(newest.glob("*.safetensors")):
        tensors |= {f"{path.stem}/{name}": value for name, value in load_file(path).items()}
    return tensors


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# The same training


def plain_descent(parameters, lr, betas, fused):
    """Adam divides by the size of a gradient, which makes noise of those that are exactly 0."""
    return torch.optim.SGD(parameters, lr=lr * 50)


@pytest.mark.parametrize(
    ("norm", "count"),
    [("none", 11), ("instance", 11), ("group", 9), ("sync", 11), ("sync", 9)],
)
def test_two_processes_train_as_one_with_twice_the_batch(
    tmp_path, recipe, monkeypatch, norm, count
):
    """With 11 pairs the third step has 2 and 1; with 9 it has one, and a process that repeats."""
    monkeypatch.setattr(torch.optim, "Adam", plain_descent)
    settings = {"data__count": count, "generator__norm": norm, "discriminator__norm": norm}
    train(0, recipe, tmp_path / "one", train__batch_size=4, **settings)
    together(2, partial(train, recipe=recipe, out=tmp_path / "two", **settings), tmp_path)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 6
    for alone, shared in zip(one, two, strict=True):
        assert shared == pytest.approx(alone, rel=1e-5)
    first, second = everything(tmp_path / "one"), everything(tmp_path / "two")
    for name in first:
        if name.startswith("networks/"):
            torch.testing.assert_close(second[name], first[name], rtol=1e-4, atol=1e-6, msg=name)


def test_plain_batch_norm_is_that_of_each_process(tmp_path, recipe, monkeypatch):
    monkeypatch.setattr(torch.optim, "Adam", plain_descent)
    settings = {"generator__norm": "batch", "train__steps": 2}
    train(0, recipe, tmp_path / "one", train__batch_size=4, **settings)
    together(2, partial(train, recipe=recipe, out=tmp_path / "two", **settings), tmp_path)
    one, two = losses(tmp_path / "one")[0]["l1"], losses(tmp_path / "two")[0]["l1"]
    assert two != pytest.approx(one, rel=3e-5)


def gradients_by_hand(rank):
    """Least squares on 3 + 2 + 0 of five images, against its own formula in float64."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(5, 3, 2, 2)), random.normal(size=(5, 4))
    first, second = random.normal(size=(4, 3, 2, 2)), random.normal(size=4)
    gradients.BUCKET_BYTES = 8 * first.size + 1  # so that there are two
    with joined("cpu") as processes:
        conv = nn.Conv2d(3, 4, 2).double().to(memory_format=torch.channels_last)
        frozen = nn.Linear(2, 2)
        if rank == 0:
            with torch.no_grad():
                conv.weight.copy_(torch.tensor(first))
                conv.bias.copy_(torch.tensor(second))
        networks = {"conv": conv, "frozen": frozen.requires_grad_(False)}
        own = torch.optim.SGD([*conv.parameters(), *frozen.parameters()], lr=0.5)
        other = torch.optim.SGD([conv.bias], lr=0.25)
        method = SimpleNamespace(networks=networks, optimizers={"own": own, "other": other})
        make_alike(method, processes)
        mean = MeanGradients(method, processes)
        part = [slice(0, 3), slice(3, 5), slice(0, 1)][rank]
        source, target = torch.tensor(x[part]), torch.tensor(y[part])
        share = [9 / 5, 6 / 5, 0.0][rank]
        for _ in range(2):
            mean.weigh(Batch(source, target, (), 5, share))
            assert not mean.even
            conv.zero_grad()
            (conv(source).flatten(1) - target).square().mean().backward()
            own.step()
            other.step()
        flat = first.reshape(4, -1)
        for _ in range(2):
            error = x.reshape(5, -1) @ flat.T + second - y
            flat = flat - 0.5 * 2 * error.T @ x.reshape(5, -1) / error.size
            second = second - 0.75 * 2 * error.sum(0) / error.size
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        np.testing.assert_allclose(weight.reshape(4, -1), flat, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(bias, second, rtol=1e-12, atol=1e-13)
        assert conv.weight.is_contiguous(memory_format=torch.channels_last)
        assert frozen.weight.grad is None
        mean.weigh(Batch(source, target, (), 6, 1.0))
        assert mean.even
        # What cannot be averaged is refused, in all of them.
        for kind, message in (("closure", "a closure"), ("differing", "differ in what")):
            wrong = torch.optim.SGD(conv.parameters(), lr=0.1)
            MeanGradients(SimpleNamespace(networks={}, optimizers={kind: wrong}), processes)
            if kind == "differing" and rank == 1:
                conv.bias.grad = None
            with pytest.raises(Img2ImgError, match=message):
                wrong.step((lambda: 0.0) if kind == "closure" else None)


def test_gradients_are_the_formula_of_all_pairs(tmp_path):
    together(3, gradients_by_hand, tmp_path)


def norm_as_in_one(rank):
    """SyncBatchNorm on parts of 5 + 1 (+ 0) images against BatchNorm2d on all six."""
    with joined("cpu"):
        random = torch.Generator().manual_seed(0)
        # Far from 0, where a difference of squares would have lost the variance.
        whole = torch.randn(6, 3, 4, 4, generator=random) * 0.1 + 10
        wanted = torch.randn(6, 3, 4, 4, generator=random)
        reference = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
        layers = nn.Sequential(SyncBatchNorm(3), SyncBatchNorm(3))
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.copy_(torch.rand(3, generator=random) + 0.5)
        layers.load_state_dict(reference.state_dict())
        reference.double()
        x = whole.double().requires_grad_(True)
        y = reference(x)
        (y * wanted).square().mean().backward()
        part = [slice(0, 5), slice(5, 6), slice(2, 4)][rank]
        share = [2.5, 0.5, 0.0][rank]
        for layer in layers:
            layer.share = share
        own = whole[part].clone().requires_grad_(True)
        z = layers(own)
        (z * wanted[part]).square().mean().backward()
        torch.testing.assert_close(z, y[part].float(), rtol=1e-4, atol=1e-4)
        # Of the mean over processes, each with its weight; 0 / 0 is never computed.
        if share:
            expected = x.grad[part].float()
            torch.testing.assert_close(own.grad * share / 3, expected, rtol=1e-3, atol=1e-5)
        assert own.grad.isfinite().all()
        for mine, theirs in zip(layers, reference, strict=True):
            for name in ("running_mean", "running_var"):
                torch.testing.assert_close(
                    getattr(mine, name), getattr(theirs, name).float(), rtol=1e-4, atol=1e-5
                )
            assert mine.num_batches_tracked == 1
        # A single value a channel, of all processes: no statistics, and no gradient but the bias's.
        alone = SyncBatchNorm(3)
        alone.share = [3.0, 0.0, 0.0][rank]
        torch.nn.init.constant_(alone.bias, 0.5)
        one = torch.full((1, 3, 1, 1), 7.0 + rank, requires_grad=True)
        out = alone(one)
        out.sum().backward()
        if rank == 0:
            assert one.grad.abs().max() == 0
            assert torch.equal(out, torch.full((1, 3, 1, 1), 0.5))
        assert alone.running_mean.tolist() == [0, 0, 0]
        assert alone.running_var.tolist() == [1, 1, 1]
        assert alone.num_batches_tracked == 0
        # On shapes alone it asks nobody.
        SyncBatchNorm(3, device="meta")(torch.empty(2, 3, 4, 4, device="meta"))


def test_sync_norm_is_batch_norm_over_all_processes(tmp_path):
    together(3, norm_as_in_one, tmp_path)


def small_parts(rank):
    with joined("cpu") as processes:
        assert processes == Processes(rank, 3, rank, 3)
        assert processes.main is (rank == 0)
        assert processes.gather(f"from {rank}") == ["from 0", "from 1", "from 2"]
        assert processes.decide(lambda: rank) == 0
        assert processes.mean(torch.tensor([float(rank), 3.0])).tolist() == [1.0, 3.0]
        norm = nn.BatchNorm2d(2)
        norm.running_mean.fill_(rank)
        norm.running_var.fill_(0.1)
        average_statistics([norm], processes)
        assert norm.running_mean.tolist() == [1.0, 1.0]
        assert torch.equal(norm.running_var, torch.full((2,), 0.1))
        try:
            processes.decide(lambda: 1 / 0)
        except ZeroDivisionError:
            assert processes.main
        except SaidElsewhere as error:
            assert error.exit_code == 1
            assert not processes.main
    assert not torch.distributed.is_initialized()


def test_what_processes_tell_each_other(tmp_path):
    together(3, small_parts, tmp_path)


def test_buckets_keep_order_and_hold_one_type():
    sizes = [10, 20, 100, 5, 5]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(5, dtype=torch.float64)]
    found = buckets(tensors, 160)
    assert [[t.numel() for t in bucket] for bucket in found] == [[10, 20], [100], [5, 5], [5]]
    assert [id(t) for bucket in found for t in bucket] == [id(t) for t in tensors]


# Going on


def stops_at(step, rank, recipe, out, **overrides):
    """As `train`, and the second process is asked to stop after that step."""
    from img2img.plugins import load_plugins
    from img2img.training import to_assignments, train_recipe

    def ask(done):
        if done == step and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with joined("cpu") as processes:
            train_recipe(
                str(recipe),
                load_plugins(entry_points=False),
                out=out,
                device="cpu",
                overrides=to_assignments(dotted(overrides)),
                on_step=ask,
                processes=processes,
            )
    except Img2ImgError as error:
        print(f"ended with {type(error).__name__}: {error}")
        sys.exit(error.exit_code)


NOISY = {"generator__dropout": 0.5, "generator__norm": "batch", "train__log_every": 2}


def test_all_stop_after_one_step_and_go_on_to_the_same_end(tmp_path, recipe):
    """Bit for bit, with noise of each process, plain batch norm, and a log window cut in two."""
    together(2, partial(train, recipe=recipe, out=tmp_path / "whole", **NOISY), tmp_path)
    work = partial(stops_at, 3, recipe=recipe, out=tmp_path / "cut", **NOISY)
    started = Started(2, lambda rank: work(rank=rank), tmp_path)
    assert started.codes() == [130, 130], started.said()
    assert started.said().count("Interrupted: stopped at step 3 of 6") == 1
    found = find_checkpoints(RunDirectory(tmp_path / "cut"))
    assert [path.name for path in found] == ["step-00000003"]
    together(2, partial(train, recipe=recipe, out=tmp_path / "cut", resume=True, **NOISY), tmp_path)
    whole, cut = everything(tmp_path / "whole"), everything(tmp_path / "cut")
    same = [name for name in whole if "running_" not in name]
    assert_same({n: whole[n] for n in same}, {n: cut[n] for n in same})
    # Averaged once more on the way, which rounds.
    for name in whole.keys() - same:
        torch.testing.assert_close(cut[name], whole[name], rtol=1e-6, atol=1e-7)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    # Each process has its own noise.
    assert not torch.equal(whole["loose/random.cpu"], whole["loose/process1.random.cpu"])


@pytest.mark.parametrize(
    ("was", "batch_size", "count", "told"),
    [
        (1, 1, 2, "1 pair a step .* and 2 processes .* would take 2: start 1 process$"),
        (4, 8, 1, r"and 1 process with .* would take 8: give --set train\.batch_size=4$"),
        (4, 3, 3, r"start 1, 2 or 4 processes with --set train\.batch_size=4, 2 or 1$"),
        (4, 2, 3, r"start 2 processes, or 1 or 4 with --set train\.batch_size=4 or 1$"),
        (1, 2, 2, r"start 1 process with --set train\.batch_size=1$"),
        (60, 9, 7, r"start 4, 5, 6 or 10 processes with --set train\.batch_size=15, 12, 10 or 6$"),
    ],
)
def test_another_batch_than_the_run_s_is_refused_with_a_way_out(
    tmp_path, was, batch_size, count, told
):
    with pytest.raises(RequestError, match=told):
        _check_batch(was, batch_size, count, RunDirectory(tmp_path))


def test_another_number_of_processes_goes_on_with_the_same_batch(tmp_path, recipe):
    out = tmp_path / "run"
    together(2, partial(train, recipe=recipe, out=out, train__steps=3), tmp_path)
    about = json.loads((out / "environment.json").read_text())
    assert (about["processes"], about["global_batch"]) == (2, 4)
    with pytest.raises(RequestError, match=r"4 pairs a step.*train\.batch_size=4"):
        train(0, recipe, out, resume=True)
    arguments = ("run", recipe, "--out", out, "--resume", "--device", "cpu")
    started = Started(3, lambda rank: command(rank, *arguments), tmp_path)
    assert started.codes() == [2, 2, 2], started.said()
    assert started.said().count("was started with 4 pairs a step") == 1
    assert "would take 6: start 2 processes" in started.said()
    with pytest.warns(RuntimeWarning, match="saved by 2 processes and goes on with 1"):
        train(0, recipe, out, resume=True, train__batch_size=4)
    assert len(losses(out)) == 6
    train(0, recipe, tmp_path / "whole", train__batch_size=4)
    assert losses(out)[-1] == pytest.approx(losses(tmp_path / "whole")[-1], rel=1e-3)


# Ending together


@pytest.mark.parametrize("wrong", ["there", "recipe"])
def test_a_refusal_is_said_once(tmp_path, recipe, wrong):
    if wrong == "there":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.toml").write_text("")
        message = "already holds a run"
    else:
        recipe.write_text(RECIPE.replace("width = 4\ndropout", "widht = 4\ndropout"))
        message = "generator.widht is not a setting"
    arguments = ("run", recipe, "--out", tmp_path / "run", "--device", "cpu")
    started = Started(2, lambda rank: command(rank, *arguments), tmp_path)
    said = started.codes(), started.said()
    assert said[0] == [2, 2], said
    assert said[1].count(message) == 1, said
    assert "Traceback" not in said[1]


FAULT = """
import os, signal
import img2img
from img2img.losses import L1

class Fault(L1):
    "L1 until a step in which one process fails."
    def __init__(self, *, how: str, step: int):
        super().__init__()
        self.how, self.left = how, step
    def forward(self, output, target):
        self.left -= 0 if output.device.type == "meta" or not output.requires_grad else 1
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if self.left == 0 and not again and os.environ.get("RANK") == "1":
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "raises":
                raise ValueError("no such luck")
            if self.how == "nan":
                return super().forward(output, target) * float("nan")
        return super().forward(output, target)

@img2img.hookimpl
def register(registry):
    registry.loss("fault", Fault)
"""


def faulty(recipe, how, step, every):
    plugin = recipe.with_name("fault.py")
    plugin.write_text(FAULT)
    text = RECIPE.replace('name = "l1"', f'name = "fault"\nhow = "{how}"\nstep = {step}')
    recipe.write_text(text.replace("checkpoint_every = 100", f"checkpoint_every = {every}"))
    return plugin


@pytest.mark.parametrize("how", ["killed", "raises", "nan", "preparing", "disk"])
def test_one_that_fails_ends_all(tmp_path, recipe, monkeypatch, how):
    plugin = faulty(recipe, how, step=3, every=1)
    if how == "preparing":
        monkeypatch.setattr(training, "assemble", no_data)
    if how == "disk":
        monkeypatch.setattr("img2img.engine.checkpoint.save_tensors", no_space)
    out = tmp_path / "run"
    arguments = ("run", recipe, "--out", out, "--plugin", plugin, "--device", "cpu", "--quiet")
    # With four, not all notice by themselves.
    count = 4 if how == "killed" else 2
    started = Started(count, lambda rank: command(rank, *arguments), tmp_path)
    codes, said = started.codes(40), started.said()
    wanted, message = {
        "killed": (
            [1, -9, 1, 1],
            "process 1 was lost.*--resume goes on from step 2.*--max-restarts",
        ),
        "raises": ([1, 1], "Pix2Pix failed in step 3: ValueError: no such luck"),
        "nan": ([1, 1], "the loss 'fault' is not finite at step 3"),
        "preparing": ([2, 2], "the data of process 1 is missing"),
        "disk": ([1, 1], "cannot write .*checkpoints/step-.*No space left"),
    }[how]
    assert codes == wanted, said
    assert len(re.findall(message, said)) == 1, said
    assert len(re.findall("error:", said)) == 1, said
    assert "Traceback" not in said
    assert not list(out.rglob("*partial*"))
    if how == "preparing":
        assert not out.exists()


def asked_while_it_prepares(rank):
    try:
        with joined("cpu"):
            try:
                if rank:
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(20)
            except Exception:
                print("explained as a mistake")
            torch.distributed.barrier()
    except KeyboardInterrupt:
        sys.exit(130)
    except SaidElsewhere as error:
        sys.exit(error.exit_code)


def test_sigterm_before_training_passes_whatever_catches_exceptions(tmp_path):
    started = Started(2, asked_while_it_prepares, tmp_path)
    assert started.codes() == [130, 130], started.said()
    assert "explained" not in started.said()


@pytest.fixture
def linked(monkeypatch):
    """Processes 0 and 1 of three, the last of which is gone, without a network between them."""
    for name, seconds in {"LISTENING": 0.02, "ROLL_CALL": 0.2, "PRECEDENCE": 0.02}.items():
        monkeypatch.setattr(link, name, seconds)
    made = []

    def links(world_size=3):
        store = torch.distributed.HashStore()
        made.extend(link.Link(store, None, rank, world_size) for rank in (0, 1))
        return [Processes(rank, world_size, rank, world_size, 0, made[rank - 2]) for rank in (0, 1)]

    yield links
    for each in made:
        each.cut()


GONE = RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


def test_what_a_lost_process_leaves_is_told_by_who_wrote_it(linked, monkeypatch):
    monkeypatch.setattr(link, "LEAVING", 0.1)
    _, other = linked()
    told = other.link.explain(GONE)
    assert re.search("lost.*training had not begun", str(told)), told
    for saved, by_main, by_another in (
        (None, "; nothing was saved yet", "may still save, or begins anew"),
        (5, "--resume goes on from step 5, and", "step 5, or a later one that the main process"),
    ):
        for speaker, said in enumerate((by_main, by_another)):
            both = linked()
            both[0].note_saved(saved)
            both[1].note_saved(10)  # ahead of the main one, which is still writing
            told = both[speaker].link.explain(GONE)
            assert said in str(told), told
    main, other = linked()
    assert "lost" in str(other.link.explain(GONE))
    # Once is enough.
    assert isinstance(main.link.explain(GONE), SaidElsewhere)


def test_a_signal_because_another_was_lost_is_no_interruption(linked, monkeypatch):
    _, other = linked()
    asked = Img2ImgError("interrupted")
    asked.__context__ = KeyboardInterrupt()
    told = other.link.explain(asked)
    assert "lost: killed" in str(told)
    monkeypatch.setattr(link, "ROLL_CALL", 10)  # over as soon as all have answered
    _, other = linked(world_size=2)
    assert other.link.explain(asked) is asked


def test_who_holds_the_notes_waits_for_the_others_to_read_them(linked, monkeypatch):
    monkeypatch.setattr(link, "ROLL_CALL", 0.6)
    main, other = linked(world_size=2)
    leaving = threading.Thread(target=main.link.explain, args=(Img2ImgError("full"),))
    leaving.start()
    time.sleep(0.8)  # longer than a roll call: the other is there, and late
    assert leaving.is_alive()
    assert isinstance(other.link.explain(GONE), SaidElsewhere)
    leaving.join(5)
    assert not leaving.is_alive()


def no_data(*arguments, **options):
    if os.environ["RANK"] == "1":
        raise DataError("the data of process 1 is missing")
    return assemble(*arguments, **options)


def no_space(*arguments):
    raise OSError(28, "No space left on device")


def torchrun(rank, *arguments):
    """As `torchrun --standalone --nproc-per-node 2 --max-restarts 1`, but its processes are forked.

    That the program can be started by torchrun itself is seen in test_infer_folder.py.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=1,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    elastic_launch(config, ended_well)(*arguments)


def ended_well(*arguments):
    """The command; what is left by SystemExit gives its agent no answer."""
    try:
        command(None, *arguments)
    except SystemExit as left:
        if left.code:
            raise


def test_torchrun_starts_again_what_was_killed(tmp_path, recipe):
    """As an uninterrupted run of two processes, bit for bit."""
    plugin = faulty(recipe, "killed", step=5, every=2)
    arguments = ("run", recipe, "--out", tmp_path / "run", "--plugin", plugin, "--device", "cpu")
    arguments += ("--set", "generator.dropout=0.5")
    started = Started(1, lambda rank: torchrun(rank, *arguments), tmp_path)
    codes, said = started.codes(120), started.said()
    assert codes == [0], said
    assert said.count("process 1 was lost") == 1, said
    assert "training: 6 steps, 4 pairs a step (2 processes with 2 each)" in said
    assert "--resume goes on from step 4" in said
    assert said.count("finished: ") == 1
    assert "destroy_process_group" not in said
    recipe.write_text(RECIPE.replace("checkpoint_every = 100", "checkpoint_every = 2"))
    together(
        2, partial(train, recipe=recipe, out=tmp_path / "whole", generator__dropout=0.5), tmp_path
    )
    assert_same(everything(tmp_path / "whole"), everything(tmp_path / "run"))


def look_in_turn(rank, folder):
    with joined("cpu") as processes, processes.first_on_each_machine():
        if rank:
            assert (folder / "listed").exists()
        else:
            time.sleep(0.3)
            (folder / "listed").touch()


def test_one_process_of_a_machine_lists_the_data_for_all(tmp_path):
    together(3, partial(look_in_turn, folder=tmp_path), tmp_path)


# The environment


def test_without_torchrun_a_process_is_alone(monkeypatch):
    assert from_environment() == Processes()
    with joined("cpu") as processes:
        assert processes == Processes()
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(RequestError, match="process 2 of 1"):
        from_environment()
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(RequestError, match="RANK is 'two'"):
        from_environment()


def test_each_process_has_a_device_of_its_own(monkeypatch):
    third = Processes(rank=6, world_size=8, local_rank=2, local_size=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert third.device("auto") == torch.device("cpu")
    with pytest.raises(RequestError, match="--device cuda: this machine has no CUDA device"):
        third.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert third.device("auto") == torch.device("cuda", 2)
    assert third.device("cpu") == torch.device("cpu")
    with pytest.raises(RequestError, match="--device cuda:1: torchrun gives each"):
        third.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RequestError, match=r"4 processes on a machine .* 2 CUDA devices"):
        third.device("auto")
