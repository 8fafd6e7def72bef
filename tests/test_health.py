"""Sick training: numbers that are no numbers, and runs that learn nothing useful."""

import json
import os
import re
import signal
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from img2img.assemble import assemble
from img2img.bundle import saved_step
from img2img.data.loading import PairDataset
from img2img.engine import finite
from img2img.engine import health as health_module
from img2img.engine.checkpoint import find_checkpoints
from img2img.engine.directory import RunDirectory
from img2img.engine.finite import FirstBad, first_not_finite
from img2img.engine.health import Game, Health
from img2img.engine.losses import StepLosses
from img2img.engine.state import TrainState
from img2img.errors import Img2ImgError
from img2img.evaluation.outputs import Outputs
from img2img.plugins import load_plugins
from img2img.recipe_parser import load_recipe
from img2img.training import to_assignments, train_recipe

PARTS = """
import torch
from torch import nn
import img2img

class Bad(nn.Module):
    '''The mean difference, but for one step: then its value, or only its gradient, is wrong.'''
    def __init__(self, *, at: int = 3, value: float = 1.0, gradient: float = 1.0) -> None:
        super().__init__()
        self.at, self.value, self.gradient, self.calls = at, value, gradient, 0

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.calls += output.requires_grad
        now = output.requires_grad and self.calls == self.at
        if now:
            output.register_hook(lambda gradient: gradient * self.gradient)
        wrong = float("nan") if self.value < 0 else self.value  # a recipe takes no NaN
        return (output - target).abs().mean() * (wrong if now else 1.0)

class Constant(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.colour.expand(len(x), -1, *x.shape[2:])

class Echo(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-3 * self.shift

class Harsh(Echo):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e-3 * self.shift - x.sign()

seen = []

@img2img.hookimpl
def on_warning(step, kind, message):
    with open(__file__ + ".seen", "a") as file:
        file.write(f"{step} {kind}\\n")

@img2img.hookimpl
def register(registry):
    registry.loss("bad", Bad)
    registry.generator("constant", Constant)
    registry.generator("echo", Echo)
    registry.generator("harsh", Harsh)
"""


INF, NAN = float("inf"), -1.0


class Trial:
    """A small recipe on files, with a plugin of parts that go wrong."""

    def __init__(self, tmp_path, root, tables):
        self.folder = tmp_path
        self.plugin = tmp_path / "parts.py"
        self.plugin.write_text(PARTS)
        self.recipe = tmp_path / "tiny.toml"
        text = tables.replace('"pairs"', f'"{root}"')
        text += "steps = 8\nbatch_size = 2\nlog_every = 2\nsample_every = 2\ncheckpoint_every = 4\n"
        self.recipe.write_text(text + 'precision = "float32"\n')

    def run(self, name="run", on_step=lambda step: None, resume=False, **overrides):
        plugins = load_plugins([self.plugin], entry_points=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return train_recipe(
                str(self.recipe),
                plugins,
                out=self.folder / name,
                device="cpu",
                resume=resume,
                on_step=on_step,
                overrides=to_assignments({k.replace("__", "."): v for k, v in overrides.items()}),
            )

    def bad(self, **settings):
        """Overrides that put the loss `bad` in the place of l1."""
        return {"losses": [{"name": "adversarial"}, {"name": "bad", **settings}]}

    def lines(self, name="run"):
        text = (self.folder / name / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def told(self, name="run"):
        return [(x["step"], x["warning"]["kind"]) for x in self.lines(name) if "warning" in x]

    def heard(self):
        """What the plugin's hook was told."""
        path = self.folder / "parts.py.seen"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(step), kind) for step, kind in (line.split() for line in lines)]


@pytest.fixture
def trial(tmp_path, pairs_folder, tiny_tables):
    return Trial(tmp_path, pairs_folder, tiny_tables)


def nothing_after(trial, step):
    """Whether no file of a run comes from this step or a later one."""
    directory = RunDirectory(trial.folder / "run")
    assert all(int(p.name[5:]) < step for p in find_checkpoints(directory))
    assert all(int(p.stem[5:]) < step for p in directory.samples.glob("*.png"))
    for model in (directory.model, directory.best):
        assert not model.exists() or saved_step(model) < step
    others = [line for line in trial.lines() if "warning" not in line]
    assert all(line["step"] < step for line in others if "validation" in line)
    return others


# Losses.


@pytest.mark.parametrize(("step", "value"), [(1, INF), (3, NAN), (4, NAN), (7, INF)])
def test_a_loss_that_is_no_number_ends_the_run_at_its_step(trial, monkeypatch, step, value):
    """On log lines and between them, and where a checkpoint would have been saved."""
    drawn = []
    read = PairDataset.__getitem__

    def noted(self, key):
        drawn.append(self.pairs.name(key[1]))
        return read(self, key)

    monkeypatch.setattr(PairDataset, "__getitem__", noted)
    with pytest.raises(Img2ImgError) as caught:
        trial.run(**trial.bad(at=step, value=value))
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert f"the loss 'bad' is not finite at step {step};" in text
    assert len(drawn) == 2 * step
    batch = drawn[-2:]
    assert f"Its batch: {', '.join(batch)}." in text
    saved = "of step 4" if step > 4 else "there is no checkpoint yet"
    assert saved in text
    for help_ in ("method.learning_rate", "--precision float32", "img2img check", "--resume"):
        assert help_ in text
    nothing_after(trial, step)
    assert trial.told() == trial.heard() == [(step, "not_finite")]


def test_on_a_gpu_it_is_noticed_before_anything_is_saved(trial, monkeypatch):
    """There losses are read where the run logs or saves, and name the step all the same."""
    start = finite.FiniteGuard.__init__

    def as_on_a_gpu(self, *arguments):
        start(self, *arguments)
        self._each_step = False

    monkeypatch.setattr(finite.FiniteGuard, "__init__", as_on_a_gpu)
    done = []
    with pytest.raises(Img2ImgError, match=r"loss 'bad' is not finite at step 5;.*of step 4"):
        trial.run(on_step=done.append, **trial.bad(at=5, value=NAN), train__log_every=50)
    assert done[-1] == 6  # the next sheet's
    nothing_after(trial, 5)


def test_one_that_is_asked_to_stop_saves_no_such_state(trial):
    def on_step(step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Img2ImgError, match="not finite at step 5") as caught:
        trial.run(on_step=on_step, **trial.bad(at=5, value=NAN))
    assert caught.value.exit_code == 1
    nothing_after(trial, 5)


def test_resuming_meets_it_again_and_goes_on_without_it(trial):
    bad = trial.bad(at=6, value=INF)
    for resume in (False, True):
        # The loss counts its calls, and in the second session step 6 is the second.
        settings = trial.bad(at=2, value=INF) if resume else bad
        if resume:
            trial.recipe.with_name("run").joinpath("recipe.toml").write_text(
                trial.folder.joinpath("run/recipe.toml").read_text().replace("at = 6", "at = 2")
            )
        with pytest.raises(Img2ImgError, match=r"not finite at step 6;.*of step 4"):
            trial.run(resume=resume, **settings)
        assert trial.told() == [(6, "not_finite")]


def losses(**values):
    return StepLosses.of(values, torch.device("cpu"))


def test_first_bad_step_of_each_loss():
    noted = FirstBad(torch.device("cpu"))
    assert noted.read() is None
    good, nan = torch.tensor(1.0), torch.tensor(float("nan"))
    noted.note(losses(a=good, b=good), 1)
    noted.note(losses(a=good, b=good, c=nan.double()), 2)  # a method may have others at times
    noted.note(losses(a=good, b=-nan / 0), 3)
    noted.note(losses(a=nan, b=nan), 4)
    noted.note(losses(), 5)
    assert noted.read() == (2, "c")
    noted = FirstBad(torch.device("cpu"))
    noted.note(losses(a=good, b=good.log() - torch.tensor(float("inf"))), 7)
    noted.note(losses(a=nan.reshape(1), b=good), 8)
    assert noted.read() == (7, "b")
    noted = FirstBad(torch.device("cpu"))
    noted.note(losses(a=good, b=nan, c=nan), 9)
    assert noted.read() == (9, "b")


def test_what_is_noted_is_found_however_long_nobody_reads(monkeypatch):
    monkeypatch.setattr(finite, "KEPT_STEPS", 4)
    good, bad = torch.tensor(1.0), torch.tensor(INF)
    for at in range(1, 15):
        for reads in (1, 3, 100):
            noted = FirstBad(torch.device("cpu"))
            for step in range(1, 15):
                more = {"b": good} if step % 3 else {}  # two tables, each filled in its own time
                noted.note(losses(a=bad if step >= at else good, **more), step)
                if step % reads == 0:
                    assert noted.read() == (None if step < at else (at, "a"))
            assert noted.read() == (at, "a")
            assert noted.read() == (at, "a")


# Weights.


def test_weights_that_are_no_numbers_are_never_saved(trial):
    """The loss of that step is finite, and it is the last before a checkpoint."""
    with pytest.raises(
        Img2ImgError, match=r"of the network 'generator' holds .* after step 4"
    ) as c:
        trial.run(**trial.bad(at=4, gradient=INF))
    assert "every loss was finite" in str(c.value)
    nothing_after(trial, 4)
    assert trial.told() == [(4, "not_finite")]


@pytest.mark.parametrize("where", ["weight", "moment", "average", "buffer"])
def test_what_is_looked_at_before_saving(where):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network.register_buffer("mask", torch.tensor([-float("inf"), 0.0]))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    method = SimpleNamespace(
        generator=network, networks={"net": network}, optimizers={"adam": optimizer}
    )
    average = SimpleNamespace(network=nn.Linear(1, 1))
    state = TrainState(method, average=average)
    # A mask of infinities is what some networks hold on purpose.
    assert first_not_finite(state) is None
    with torch.no_grad():
        if where == "weight":
            network[1].weight[1] = float("nan")
        elif where == "moment":
            optimizer.state[network[0].bias]["exp_avg_sq"][0] = float("inf")
        elif where == "average":
            average.network.bias[0] = -float("inf")
    assert (
        first_not_finite(state)
        == {
            "weight": "'1.weight' of the network 'net'",
            "moment": "'exp_avg_sq' of '0.bias' in the optimizer 'adam'",
            "average": "'bias' of the network 'average'",
            "buffer": None,
        }[where]
    )


# Images.


def test_an_image_with_values_that_are_no_numbers_is_named(trial, monkeypatch):
    """Files that hold such are skipped as unreadable; a plugin's source may still give some."""
    read = PairDataset.tensors

    def tensors(self, index, epoch=0):
        source, target = read(self, index, epoch)
        if self.pairs.name(index).endswith("train/004.png"):
            target = torch.full_like(target, float("nan"))
        return source, target

    monkeypatch.setattr(PairDataset, "tensors", tensors)
    with pytest.raises(Img2ImgError, match="not finite") as caught:
        trial.run()
    assert re.search(r"Its cause: target of \S*004\.png, .*then use --fresh", str(caught.value))


def test_a_file_with_values_that_are_no_numbers_is_skipped(tmp_path, tiny_tables):
    root, random = tmp_path / "data", np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 1)):
        for side in "AB":
            (root / split / side).mkdir(parents=True)
            for i in range(count):
                pixels = random.random((32, 32, 3), np.float32)
                if (split, side, i) == ("train", "B", 4):
                    pixels[8:24, 8:24] = np.nan
                tifffile.imwrite(root / split / side / f"{i}.tif", pixels, photometric="rgb")
    trial = Trial(tmp_path, root, tiny_tables.replace("root", 'source = "two_folders"\nroot'))
    with pytest.warns(RuntimeWarning, match=r"skipped .*4\.tif: .*not finite"):
        trial.run(train__steps=3)
    assert [kind for _, kind in trial.told()] == ["unreadable"]


# Who is ahead.


class Told:
    """Stands for `Events`."""

    def __init__(self):
        self.events = []

    def tell(self, event, step, kind, message):
        assert event == "on_warning" and message
        self.events.append((step, kind))


def watcher(tmp_path, game):
    directory, told = RunDirectory(tmp_path), Told()
    tmp_path.mkdir(exist_ok=True)
    return Health(directory, told, game), told


def seen_losses(tmp_path, game, levels, every=100):
    """What is told of log lines with these (d_real, d_fake, adversarial), each of `every` steps."""
    health, told = watcher(tmp_path, game)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for number, (real, fake, adversarial) in enumerate(levels, 1):
            losses = {"d_real": real, "d_fake": fake, game.name: adversarial}
            health.see_losses(number * every, losses)
    return told.events


WINS = {
    "vanilla": ((0.001, 0.002, 8.0), (0.4, 0.3, 2.0)),
    "lsgan": ((0.002, 0.001, 0.99), (0.2, 0.2, 0.4)),
    "hinge": ((0.01, 0.0, 3.0), (0.6, 0.5, 0.4)),
}


@pytest.mark.parametrize("mode", WINS)
def test_a_discriminator_that_has_won_is_told_once_until_it_passes(tmp_path, mode):
    won, fair = WINS[mode]
    game = Game("adversarial", mode, 1.0)
    assert seen_losses(tmp_path / "fair", game, [fair] * 40) == []
    assert seen_losses(tmp_path / "won", game, [won] * 40) == [(500, "discriminator_won")]
    assert seen_losses(tmp_path / "brief", game, ([won] * 2 + [fair] * 2) * 10) == []
    again = seen_losses(tmp_path / "again", game, [won] * 8 + [fair] * 8 + [won] * 8)
    assert again == [(500, "discriminator_won"), (2100, "discriminator_won")]
    # A low loss of the discriminator means little while the generator's is low, too.
    assert seen_losses(tmp_path / "both", game, [(*won[:2], 0.1)] * 40) == []


def test_a_weight_on_the_game_is_taken_out_of_it(tmp_path):
    won, _ = WINS["vanilla"]
    levels = [(*won[:2], won[2] * 0.01)] * 10
    weighed = seen_losses(tmp_path / "a", Game("adversarial", "vanilla", 0.01), levels)
    assert weighed == [(500, "discriminator_won")]
    assert seen_losses(tmp_path / "b", Game("adversarial", "vanilla", 1.0), levels) == []


def test_nothing_is_said_of_games_without_a_scale(tmp_path):
    won, _ = WINS["vanilla"]
    for game in (Game("adversarial", "wgan-gp", 1.0), Game("adversarial", "vanilla", 0.0)):
        assert seen_losses(tmp_path / game.mode, game, [won] * 20) == []


LOSSES = """
import img2img
from img2img.losses import Adversarial
from img2img.methods import Pix2Pix
from torch import nn

class Softened(nn.Module):
    mode = "vanilla"

    def __init__(self) -> None:
        super().__init__()
        self.game = Adversarial()

    def discriminator_loss(self, discriminate, real, fake):
        return self.game.discriminator_loss(discriminate, real, fake)

    def generator_loss(self, discriminate, real, fake):
        return self.game.generator_loss(discriminate, real, fake)

class Silent(Softened):
    mode = None

class Other:
    def __init__(self, build_generator, build_discriminator, losses, source_channels,
                 target_channels, conditional) -> None:
        rest = (build_generator, build_discriminator, losses, source_channels, target_channels)
        self.played = Pix2Pix(*rest, conditional)
        self.generator, self.networks = self.played.generator, self.played.networks
        self.optimizers, self.adversarial = self.played.optimizers, self.played.adversarial

    def step(self, source, target):
        return self.played.step(source, target)

class Another(Other):
    def __init__(self, build_generator, build_discriminator, losses, source_channels,
                 target_channels, conditional) -> None:
        super().__init__(build_generator, build_discriminator, losses, source_channels,
                         target_channels, conditional)
        self.adversarial = 0.5  # its own affair

@img2img.hookimpl
def register(registry):
    registry.loss("softened", Softened)
    registry.loss("silent", Silent)
    registry.method("other", Other)
    registry.method("another", Another)
"""


def test_a_plugins_game_is_watched_as_the_built_in_one_is(tmp_path, tiny_tables, pairs_folder):
    (tmp_path / "losses.py").write_text(LOSSES)
    recipe = tiny_tables.replace('"pairs"', f'"{pairs_folder}"') + "steps = 1\n"
    plugins = load_plugins([tmp_path / "losses.py"], entry_points=False)

    def game(method, loss, weight=1.0):
        entry = f'name = "{loss}"\nweight = {weight}'
        path = tmp_path / "tiny.toml"
        path.write_text(recipe.replace('name = "adversarial"', entry))
        loaded = load_recipe(path, plugins.registry, [f"method.name={method}"])
        directory = RunDirectory(tmp_path / "run")
        run = assemble(loaded, plugins, directory, device=torch.device("cpu"))
        return run.plan.game

    assert game("pix2pix", "adversarial") == Game("adversarial", "vanilla", 1.0)
    assert game("pix2pix", "softened", 0.5) == Game("softened", "vanilla", 0.5)
    assert game("other", "softened") == Game("softened", "vanilla", 1.0)
    assert game("another", "softened") is None
    assert game("pix2pix", "silent") is None


@pytest.mark.parametrize("every", [1, 50, 700])
def test_the_window_is_counted_in_steps(tmp_path, every):
    won, _ = WINS["vanilla"]
    told = seen_losses(tmp_path, Game("adversarial", "vanilla", 1.0), [won] * 600, every)
    assert told == [(-(-500 // every) * every, "discriminator_won")]


def test_what_goes_on_says_what_was_not_said_yet(tmp_path):
    """From a file cut off at any line, the rest comes out as it would have anyway."""
    won, fair = WINS["vanilla"]
    levels = [won] * 7 + [fair] * 7 + [won] * 7
    game = Game("adversarial", "vanilla", 1.0)

    def go_on(path, first, last):
        directory = RunDirectory(path)
        health = Health(directory, Told(), game)
        for number in range(first, last):
            losses = dict(zip(("d_real", "d_fake", "adversarial"), levels[number], strict=True))
            directory.add_metrics({"step": (number + 1) * 100, "losses": losses})
            health.see_losses((number + 1) * 100, losses)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        (tmp_path / "whole").mkdir()
        go_on(tmp_path / "whole", 0, len(levels))
        for cut in range(0, len(levels), 3):
            path = tmp_path / str(cut)
            path.mkdir()
            go_on(path, 0, cut)
            go_on(path, cut, len(levels))
            whole, parts = ((p / "metrics.jsonl").read_text() for p in (tmp_path / "whole", path))
            assert whole == parts
    kinds = [
        next(iter(json.loads(line).keys() - {"step", "losses"}), "") for line in whole.splitlines()
    ]
    assert [kind for kind in kinds if kind] == ["warning", "passed", "warning"]


# Outputs.


class Plain:
    """A task whose tensors are its images, (C, H, W) in [0, 1]."""

    palette = None

    def decode_source(self, source):
        return source.permute(1, 2, 0).numpy()

    def decode_target(self, target, source):
        return target.permute(1, 2, 0).numpy()


def outputs_of(triples, task=None):
    outputs = Outputs()
    for source, output, target in triples:
        outputs.add(task or Plain(), source, output, target)
    return outputs


def images(count, seed, channels=3, size=(6, 5)):
    random = np.random.default_rng(seed)
    levels = random.integers(0, 256, (count, channels, *size)) / 255
    return torch.from_numpy(levels.astype(np.float32))


def test_measures_of_outputs_are_what_they_say():
    source, output, target = images(5, 0), images(5, 1) * 0.25, images(5, 2)
    outputs = outputs_of(zip(source, output, target, strict=True))
    eight = [np.round(np.float64(x) * 255) / 255 for x in (source, output, target)]
    deviations = [np.sqrt(np.var(image, axis=0).mean()) for image in eight]
    assert outputs.variety == pytest.approx(deviations[1] / deviations[2], rel=1e-2)
    moved = np.abs(eight[1] - eight[0]).mean() / np.abs(eight[2] - eight[0]).mean()
    assert outputs.moved == pytest.approx(moved, rel=1e-2)
    missed = np.sqrt(np.square(eight[1] - eight[2]).mean()) / deviations[2]
    assert outputs.missed == pytest.approx(missed, rel=1e-2)
    assert not outputs.pointless


def test_the_mean_of_all_targets_is_the_measure_of_a_miss():
    source, target = images(6, 0), images(6, 2)
    mean = target.mean(0, keepdim=True).expand(6, -1, -1, -1)
    outputs = outputs_of(zip(source, mean, target, strict=True))
    assert outputs.missed == pytest.approx(1, rel=1e-2)


def test_measures_where_nothing_can_be_said():
    source, target = images(5, 0), images(5, 2)
    assert Outputs().variety is None and Outputs().moved is None and not Outputs().pointless
    assert outputs_of(zip(source[:2], target[:2], target[:2], strict=True)).variety is None
    alike = source[:1].expand(5, -1, -1, -1)
    assert outputs_of(zip(alike, target, target, strict=True)).variety is None
    assert outputs_of(zip(source, target, alike, strict=True)).variety is None
    small = images(5, 3, size=(3, 3))
    assert outputs_of(zip(small, target, target, strict=True)).moved is None
    assert outputs_of(zip(source, target, alike, strict=True)).missed is None
    assert outputs_of(zip(source[:2], source[2:4], target[:2], strict=True)).missed is None
    mixed = [*zip(source, target, target, strict=True), (small[0], small[1], small[2])]
    assert outputs_of(mixed).variety is None
    same = outputs_of(zip(source, target, source, strict=True))
    assert same.pointless and same.moved is None


def test_classes_are_compared_as_classes():
    """Whatever the scores are: two classes that swap places differ fully, one that stays not."""
    task = SimpleNamespace(palette=np.zeros((2, 3), np.uint8))
    hot = torch.stack(
        [torch.zeros(2, 4, 4) + torch.tensor([i % 2, 1 - i % 2])[:, None, None] for i in range(6)]
    )
    source = images(6, 0, size=(4, 4))
    swapped = outputs_of(zip(source, 0.1 * hot.flip(1), hot, strict=True), task)
    assert swapped.variety == pytest.approx(1) and swapped.moved is None
    settled = torch.tensor([0.9, 0.1])[:, None, None] + 0.3 * hot  # the same class wins always
    assert outputs_of(zip(source, settled, hot, strict=True), task).variety == 0


@pytest.mark.parametrize(
    ("generator", "kind"), [("constant", "collapsed_output"), ("echo", "copied_source")]
)
def test_sick_generators_are_told_once(trial, monkeypatch, generator, kind):
    monkeypatch.setattr(health_module, "SPAN", 4)
    with pytest.warns(RuntimeWarning, match="at step 4 outputs") as told:
        trial.run(generator={"name": generator}, train__sample_count=2, data__root=more(trial))
    assert sum("outputs" in str(w.message) for w in told) == 1
    assert trial.told() == trial.heard() == [(4, kind)]


def test_outputs_far_from_their_targets_are_told(trial, monkeypatch):
    """As with a learning rate far too high: nothing is infinite, and nothing learned."""
    monkeypatch.setattr(health_module, "SPAN", 4)
    monkeypatch.setattr(health_module, "ASTRAY", 1.5)
    with pytest.warns(RuntimeWarning, match=r"gone astray.*lower method\.learning_rate"):
        trial.run(generator={"name": "harsh"}, data__root=more(trial))
    assert trial.told() == trial.heard() == [(4, "astray")]


def test_a_healthy_run_is_told_nothing(trial, monkeypatch):
    """Also when it is looked at as if it were old; RuntimeWarnings are errors here."""
    monkeypatch.setattr(health_module, "SPAN", 30)
    trial.run(
        data__root=more(trial),
        method__learning_rate=2e-3,
        train__steps=45,
        train__sample_every=15,
        train__checkpoint_every=40,
    )
    assert trial.told() == []


def more(trial):
    """The same data with four pairs to validate on; fewer than three say nothing."""
    val = trial.folder / "pairs" / "val"
    for number, path in enumerate(sorted((trial.folder / "pairs" / "train").iterdir())[:2]):
        (val / f"more{number}.png").write_bytes(path.read_bytes())
    return str(trial.folder / "pairs")


def test_targets_that_are_their_sources_are_told_at_once(trial):
    with pytest.warns(RuntimeWarning, match="target that is its source.*img2img check"):
        trial.run(
            data={
                "source": "derived",
                "derive": "copy",
                "root": str(trial.folder / "pairs"),
                "crop_size": 32,
                "load_size": 34,
            }
        )
    assert trial.told() == [(0, "same_images")]


def test_a_resumed_run_has_said_the_same(trial, monkeypatch):
    monkeypatch.setattr(health_module, "SPAN", 2)
    root = more(trial)
    (trial.folder / "pairs" / "train" / "001.png").write_bytes(b"\x89PNG broken")

    def run(name, **options):
        with pytest.warns(RuntimeWarning) as told:
            trial.run(name, generator={"name": "echo"}, data__root=root, **options)
        assert "1 unreadable pair was skipped in this run" in str(told[-1].message)

    def timeless(name):
        lines = trial.lines(name)
        return [{k: v for k, v in line.items() if not k.endswith("_s")} for line in lines]

    run("whole")
    for stop in (3, 5):
        cut = f"cut{stop}"

        def on_step(step, stop=stop):
            if step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Img2ImgError), pytest.warns(RuntimeWarning):
            trial.run(cut, on_step=on_step, generator={"name": "echo"}, data__root=root)
        run(cut, resume=True)
        assert timeless(cut) == timeless("whole")
    assert {kind for _, kind in trial.told("whole")} == {"copied_source", "unreadable"}


def test_a_line_of_warning_hurts_no_reader(trial, monkeypatch):
    monkeypatch.setattr(health_module, "SPAN", 4)
    with pytest.warns(RuntimeWarning):
        done = trial.run(generator={"name": "constant"}, data__root=more(trial))
    assert done.validation["l1"] > 0
    assert "could not be read" not in (done.path / "report.html").read_text()
