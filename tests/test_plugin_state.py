"""What plugins keep between steps goes on with a run, or the run says that it would not."""

import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import img2img
from img2img.assemble import build_networks
from img2img.document import Document
from img2img.engine.loss_state import LossState
from img2img.engine.processes import Processes
from img2img.engine.state import TrainState
from img2img.errors import Img2ImgError, RecipeError
from img2img.losses import Perceptual
from img2img.methods import WeightedLoss
from img2img.recipe_parser import parse_recipe
from img2img.tensor_file import save_tensors

RECIPE = """
name = "kept"
[data]
source = "synthetic"
count = 4
size = 32
load_size = 32
crop_size = 32
[method]
name = "pix2pix"
[generator]
width = 2
dropout = 0.0
[[losses]]
name = "moving"
[train]
steps = 4
batch_size = 2
log_every = 1
sample_every = 99
checkpoint_every = 2
"""
PLUGIN = '''
import img2img
import torch
from torch import nn

class Moving(nn.Module):
    """L1, scaled by what it keeps of the steps before in four ways, beside a fixed layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", None)
        self.register_buffer("scratch", torch.zeros(()), persistent=False)
        self.part = nn.Module()
        self.part.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.fixed = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.register_buffer("history", torch.zeros(0))

    def forward(self, output, target):
        error = (self.fixed(output) - self.fixed(target)).abs().mean()
        self.count += 1
        self.scratch += 1
        self.part.scale.data.mul_(1.1)
        now = error.detach()
        self.mean = now if self.mean is None else self.mean.lerp(now, 0.5)
        self.history = torch.cat([self.history, now[None]])
        return error * self.part.scale / self.mean * (1 + self.count * self.history.mean())

@img2img.hookimpl
def register(registry):
    registry.loss("moving", Moving)
'''


def run(folder, out, **options):
    recipe, plugin = folder / "kept.toml", folder / "moving.py"
    recipe.write_text(RECIPE)
    plugin.write_text(PLUGIN)
    img2img.train(recipe, out=out, device="cpu", plugins=[plugin], **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of four steps, its loss one that keeps something; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("done")
    run(folder, folder / "run", overrides={"train.keep_checkpoints": 9})
    return folder / "run"


@pytest.fixture
def cut(tmp_path, done):
    """The same run as it was after its second step."""
    out = shutil.copytree(done, tmp_path / "run")
    shutil.rmtree(out / "checkpoints/step-00000004")
    return out


def everything(out):
    folder = out / "checkpoints/step-00000004"
    files = sorted(folder.glob("*.safetensors"))
    return {f"{f.name}/{name}": value for f in files for name, value in load_file(f).items()}


def test_what_a_loss_keeps_goes_on_exactly(tmp_path, done, cut):
    loose = load_file(done / "checkpoints/step-00000002/loose.safetensors")
    kept = {name.removeprefix("loss.moving/") for name in loose if name.startswith("loss.")}
    # Of what changes all that is persistent, and of what is fixed nothing.
    assert kept == {"count", "mean", "part.scale", "history"}
    # What it was tried out with before the run began is not among what it saw.
    assert loose["loss.moving/count"] == 2
    run(tmp_path, cut, resume=True)
    whole, resumed = everything(done), everything(cut)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def rewrite(out, change):
    """Change the loose tensors of a checkpoint from before there were checksums."""
    folder = out / "checkpoints/step-00000002"
    (folder / "manifest.json").unlink()
    state = folder / "state.json"
    state.write_text(state.read_text().replace('"format": 2', '"format": 1'))
    save_file(change(load_file(folder / "loose.safetensors")), folder / "loose.safetensors")


def test_a_checkpoint_from_before_losses_were_kept_is_read(tmp_path, cut):
    rewrite(cut, lambda t: {name: t[name] for name in t if not name.startswith("loss.")})
    run(tmp_path, cut, resume=True)
    assert everything(cut)["loose.safetensors/loss.moving/count"] == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("loss.other/count", r"no 'other/count' in it"),
        ("loss.moving/gone.count", r"Moving has no attribute `gone`"),
        ("loss.moving/part", r"moving/part is no buffer of its loss"),
        ("loss.moving/part.scale", r"moving/part\.scale is float32 of shape \(7,\)"),
    ],
)
def test_a_checkpoint_of_another_loss_is_refused(tmp_path, cut, name, why):
    rewrite(cut, lambda t: {**t, name: torch.zeros(7)})
    with pytest.raises(Img2ImgError, match=rf"cannot be used \({why}"):
        run(tmp_path, cut, resume=True)


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, output, target):
        self.count += 1
        return (output - target).abs().mean()


def state_with(*losses, network=None):
    network = network or nn.Conv2d(3, 3, 1)
    method = SimpleNamespace(networks={"net": network}, optimizers={}, generator=network)
    named = [WeightedLoss(f"loss{i}", 1.0, loss) for i, loss in enumerate(losses)]
    return TrainState(method, losses=named)


@pytest.mark.parametrize(("processes", "wanted"), [((1, 2), 5), ((1, 3), 2)])
def test_each_process_goes_on_with_its_own(processes, wanted):
    """As many processes as before do; of another number all take the main one's."""
    states = [state_with(Counting()) for _ in range(2)]
    for state, count in zip(states, (2, 5), strict=True):
        state.losses[0].loss.count += count
    own = [state.own() for state in states]
    tensors, values = states[0].tensors(own), states[0].values(own)
    fresh = state_with(Counting())
    fresh.load(tensors, values, Processes(*processes))
    assert fresh.losses[0].loss.count == wanted
    # What was loaded is saved again, though no step has changed it since.
    assert fresh.own().losses["loss0/count"] == wanted


def test_fixed_and_shared_weights_are_in_no_checkpoint_twice():
    fixed = Perceptual(backbone="resnet10t", pretrained=False, layers=[0])
    forgotten = Perceptual(backbone="resnet10t", pretrained=False, layers=[0])
    forgotten.requires_grad_(True)
    looking = Counting()
    looking.network = nn.Conv2d(3, 3, 1)
    state = state_with(fixed, forgotten, looking, network=looking.network)
    images = torch.rand(1, 3, 32, 32)
    for entry in state.losses:
        entry.loss(images, images)
    with torch.no_grad():
        looking.network.weight += 1
    assert list(state.own().losses) == ["loss2/count"]


class Keeping(nn.Module):
    """Keeps a buffer that a step changes, by `change` of the module."""

    def __init__(self, built, change):
        super().__init__()
        self.change = change
        self.register_buffer("kept", built)

    def forward(self, output, target):
        self.change(self)
        return (output - target).abs().mean()


def losses_state(*losses, names=("a", "b")):
    named = [WeightedLoss(n, 1.0, loss) for n, loss in zip(names, losses, strict=False)]
    return LossState(named, [])


def rebind(value):
    def change(loss):
        loss.kept = value

    return change


def first_registers(loss):
    if not hasattr(loss, "other"):
        loss.register_buffer("other", torch.zeros(()))
    loss.other += 1


def registers_none(loss):
    loss.register_buffer("other", None)


@pytest.mark.parametrize(
    ("built", "change"),
    [
        (lambda: torch.tensor(0), rebind(torch.tensor(0.25))),
        (lambda: torch.zeros(3), rebind(torch.tensor([1.5, 2.5, 1e-30]).double())),
        (lambda: torch.zeros(2), rebind(None)),
        (lambda: torch.zeros(1).expand(3), rebind(torch.arange(3.0))),
        (lambda: torch.zeros(3), rebind(torch.ones(1).expand(3))),
        (lambda: torch.zeros(2, dtype=torch.complex64).conj(), rebind(torch.tensor([1 + 2j] * 2))),
        (lambda: torch.zeros(2, dtype=torch.complex64), rebind(torch.tensor([1 + 2j] * 2).conj())),
        (lambda: torch.zeros(1), rebind(torch.tensor([1 + 2j]).conj().imag)),
        (lambda: torch.zeros(0), rebind(torch.zeros(4)[::2][:1])),
        (lambda: torch.zeros(1), rebind(torch.zeros(4)[::2][:0])),
        (lambda: None, first_registers),
        (lambda: None, registers_none),
    ],
)
def test_whatever_a_buffer_becomes_goes_on(tmp_path, built, change):
    loss, fresh = Keeping(built(), change), Keeping(built(), change)
    state = losses_state(loss)
    loss(torch.zeros(1), torch.zeros(1))
    save_tensors(tmp_path / "x", state.tensors(), {"of": "a loss"})
    state = losses_state(fresh)
    state.load(load_file(tmp_path / "x"), torch.device("cpu"))
    assert fresh._buffers.keys() == loss._buffers.keys()
    for name, wanted in loss._buffers.items():
        found = fresh._buffers[name]
        assert type(found) is type(wanted)
        assert wanted is None or found.dtype == wanted.dtype
        assert wanted is None or torch.equal(found, wanted)
    # What was loaded is saved again, though no step has changed it since.
    assert state.tensors().keys() == load_file(tmp_path / "x").keys()


def test_what_two_names_share_they_share_again():
    loss = Keeping(torch.zeros(2), rebind(None))
    loss.register_buffer("twin", loss.kept)
    losses_state(loss).load({"a/kept": torch.ones(2)}, torch.device("cpu"))
    loss.kept += 1
    assert loss.twin.tolist() == [2, 2]


def test_a_parameter_takes_no_other_type():
    loss = nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError, match=r"a/weight is float64 of shape \(2, 2\), not its loss's"):
        losses_state(loss).load({"a/weight": torch.ones(2, 2).double()}, torch.device("cpu"))
    # None that a step sets is one again.
    losses_state(loss).load({"a/bias": torch.ones(2)}, torch.device("cpu"))
    assert isinstance(loss.bias, nn.Parameter)


def test_names_with_dots_are_told_apart():
    outer = nn.Module()
    outer.n = Keeping(torch.zeros(()), None)
    inner = Keeping(torch.zeros(()), None)
    state = losses_state(outer, inner, names=("moving", "moving.n"))
    outer.n.kept += 1
    inner.kept += 2
    assert {k: v.item() for k, v in state.tensors().items()} == {
        "moving/n.kept": 1,
        "moving.n/kept": 2,
    }


UNFIT = [
    (torch.eye(3).to_sparse(), r"a sparse or nested tensor, 'kept'"),
    (torch.zeros(3, dtype=torch.complex128), r"a tensor of torch\.complex128, 'kept'"),
    (nn.UninitializedBuffer(), r"a tensor without a shape, 'kept'"),
]


@pytest.mark.parametrize(("kept", "told"), UNFIT)
def test_what_no_checkpoint_can_hold_is_refused(kept, told):
    told = rf"the loss 'a' keeps {told}, that no .* persistent=False"
    with pytest.raises(Img2ImgError, match=told):
        losses_state(Keeping(kept, None))
    loss = Keeping(None, rebind(kept))
    state = losses_state(loss)
    loss(torch.zeros(1), torch.zeros(1))
    with pytest.raises(Img2ImgError, match=told):
        state.tensors()
    loss = Keeping(None, None)
    loss.register_buffer("kept", kept, persistent=False)
    assert losses_state(loss).tensors() == {}


@pytest.mark.parametrize("now", [True, False])
def test_it_is_refused_before_training(registry, now):
    """Also where the first call makes it."""
    kept = UNFIT[0][0]
    made = Keeping(kept if now else None, rebind(kept))
    with pytest.raises(RecipeError, match=r"odd\.toml:14: losses\.0: moving keeps a sparse"):
        build(registry, Base.extend, lambda: made)


def test_trying_a_loss_out_leaves_its_weights(registry):
    loss = nn.L1Loss()
    loss.weight = nn.Parameter(torch.ones(()), requires_grad=False)
    loss.register_forward_hook(lambda module, *_: module.weight.data.mul_(2) and None)
    build(registry, Base.extend, lambda: loss)
    assert loss.weight == 1


class Lazy(nn.Module):
    """Looks at both through a layer that finds out how many channels there are."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyConv2d(1, 1)

    def forward(self, output, target):
        return (self.layer(output) - self.layer(target)).abs().mean()


def test_lazy_weights_have_values_before_the_run(registry):
    """Those that each process drew in its own first step would differ."""
    loss = Lazy()
    with pytest.warns(RuntimeWarning, match="no optimizer has them"):
        build(registry, Base.extend, lambda: loss)
    assert loss.layer.weight.shape == (1, 3, 1, 1)


# Methods


class Base:
    """Trains a generator."""

    def __init__(self, build_generator, losses, source_channels, target_channels):
        self.generator = build_generator(source_channels, target_channels)
        self.networks = {"generator": self.generator}
        self.optimizers = {"g": torch.optim.Adam(self.generator.parameters())}
        self.losses = losses
        self.extend()

    def extend(self):
        pass

    def step(self, source, target):
        raise NotImplementedError


def second_optimizer(self):
    self.again = torch.optim.Adam(self.generator.parameters())


def fixed_average(self):
    """Moved by hand, as in the docs, and left out."""
    trained = nn.Conv2d(3, 3, 1)
    self.networks = {"trained": trained}
    self.optimizers = {"g": torch.optim.Adam(trained.parameters())}
    self.generator.requires_grad_(False)


def half_a_generator(self):
    self.generator = nn.Sequential(self.generator, nn.Conv2d(3, 3, 1))


def own_optimizer(self):
    self.extra = nn.Conv2d(3, 3, 1)
    self.hidden = {"of extra": torch.optim.Adam(self.extra.parameters())}


def untracked_module(self):
    self.extra = nn.Conv2d(3, 3, 1)
    self.optimizers["extra"] = torch.optim.Adam(self.extra.parameters())


def untracked_tensor(self):
    self.weight = torch.zeros(5, requires_grad=True)
    self.optimizers["g"].add_param_group({"params": [self.weight]})


def other_generator(self):
    self.generator = nn.Conv2d(3, 3, 1)


def loss_with_optimizer(self):
    loss = self.losses[0].loss
    loss.optimizer = torch.optim.SGD(loss.parameters(), 0.1)


class Scaled(nn.Module):
    """L1 with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, target):
        return self.scale * (output - target).abs().mean()


def build(registry, extend, loss=Scaled):
    registry.method("odd", type("Odd", (Base,), {"extend": extend, "__doc__": "Trains."}))
    registry.loss("moving", loss)
    text = RECIPE.replace("pix2pix", "odd")
    recipe = parse_recipe(Document(text, "odd.toml"), registry)
    return build_networks(recipe, registry, torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("extend", "told"),
    [
        (own_optimizer, r"the method has an optimizer, self\.hidden\['of extra'\], that is not in"),
        (untracked_module, r"'extra' trains 2 parameters \(the first of shape \(3, 3, 1, 1\)\)"),
        (untracked_tensor, r"'g' trains 1 parameter \(the first of shape \(5,\)\) that no entry"),
        (second_optimizer, r"the method has an optimizer, self\.again, that is not in"),
        (fixed_average, r"the generator is not in `networks`"),
        (half_a_generator, r"the generator is not in `networks`"),
        (other_generator, r"the generator is not in `networks`"),
        (loss_with_optimizer, r"the loss 'moving' has an optimizer, self\.optimizer, that is not"),
    ],
)
def test_what_would_be_trained_and_lost_is_refused(registry, extend, told):
    with pytest.raises(RecipeError, match=told) as caught:
        build(registry, extend)
    (problem,) = caught.value.problems
    assert problem.startswith("odd.toml:9: method: 'odd': ")


def trains_the_loss(self):
    self.optimizers["g"].add_param_group({"params": list(self.losses[0].loss.parameters())})


def fixed_loss(self):
    self.losses[0].loss.requires_grad_(False)


def fixed_parts(self):
    """In the generator, in an optimizer's groups, and in an optimizer of its own."""
    fixed_loss(self)
    self.networks = {"decoder": self.generator}
    self.generator = nn.Sequential(nn.Conv2d(3, 3, 1).requires_grad_(False), self.generator)
    self.offset = nn.Parameter(torch.zeros(1), requires_grad=False)
    self.optimizers["g"].add_param_group({"params": [self.offset]})
    self.idle = torch.optim.Adam([self.offset])


class Wrapper(torch.optim.Optimizer):
    """Steps another optimizer, whose groups and state are its own."""

    def __init__(self, inner):
        self.inner, self.defaults = inner, inner.defaults
        self.param_groups, self.state = inner.param_groups, inner.state


def wrapped(self):
    """An optimizer in another, modules that hold what is kept, and circles."""
    trains_the_loss(self)
    self.inner = self.optimizers["g"]
    self.optimizers["g"] = Wrapper(self.inner)
    self.wrapper = nn.Sequential(self.generator)
    self.fixed = nn.Conv2d(3, 3, 1).requires_grad_(False)
    self.networks["beside"] = self.losses[0].loss.beside = nn.Conv2d(3, 3, 1)
    self.circle = [self]
    self.circle.append(self.circle)


@pytest.mark.parametrize("extend", [trains_the_loss, fixed_loss, fixed_parts, wrapped])
def test_what_is_kept_or_fixed_is_no_matter(registry, extend):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(registry, extend)


def test_a_loss_that_is_never_trained_is_told_of(registry):
    with pytest.warns(
        RuntimeWarning, match=r"'moving' has .* \(1, the first is 'scale'\), and no opt"
    ):
        build(registry, Base.extend)


def test_a_module_beside_the_networks_is_told_of(registry):
    def extend(self):
        fixed_loss(self)
        self.helpers = [nn.Conv2d(3, 3, 1)]

    with pytest.warns(RuntimeWarning, match=r"self\.helpers\[0\] has weights .* not in `networks`"):
        build(registry, extend)
