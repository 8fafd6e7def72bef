"""A method owns its optimizers: whatever their state, a checkpoint takes it and gives it back."""

import json
import math
import shutil

import pytest
import safetensors.torch
import torch

import img2img
from img2img.engine.optimizers import check_groups, load_optimizer, plain_groups

RECIPE = """
name = "tiny"
discriminator = false
[data]
source = "synthetic"
count = 4
size = 32
load_size = 32
crop_size = 32
[generator]
width = 4
[method]
name = "own"
[[losses]]
name = "l1"
[train]
steps = 4
batch_size = 2
log_every = 1
sample_every = 4
checkpoint_every = 2
keep_checkpoints = 9
"""

PLUGIN = '''
import math
import torch
import img2img


class Growing(torch.optim.Optimizer):
    """Keeps what others do not: settings that it adds, an infinite one, a sum of another shape."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01, "decay": 0, "most": math.inf, "pair": (1, None)})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["seen"] = group.get("seen", 0) + 1
            group["scale"] = {"now": 1 / group["seen"], "all": [group["seen"]]}
            group["decay"] += 0.25
            assert isinstance(group["pair"], tuple)
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(rows=torch.zeros(p.shape[0], 2), calls=0, note=None)
                state["calls"] += 1
                state["rows"] += p.grad.reshape(p.shape[0], -1).mean(1, keepdim=True)
                step = min(group["scale"]["now"], group["most"]) * group["lr"]
                rows = state["rows"].mean(1).reshape(-1, *[1] * (p.ndim - 1))
                p.mul_(1 - 0.001 * group["decay"]).sub_(step / state["calls"] * rows)


OPTIMIZERS = {
    "adafactor": torch.optim.Adafactor,
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    "plain": lambda params: torch.optim.SGD(params, lr=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, amsgrad=True),
    "growing": Growing,
}


class Own:
    """Brings its own optimizer."""

    def __init__(
        self, build_generator, source_channels, target_channels, *, optimizer: str = "sgd"
    ):
        self.generator = build_generator(source_channels, target_channels)
        self.networks = {"generator": self.generator}
        self.optimizers = {"generator": OPTIMIZERS[optimizer](self.generator.parameters())}

    def step(self, source, target):
        loss = (self.generator(source) - target).abs().mean()
        self.optimizers["generator"].zero_grad()
        loss.backward()
        self.optimizers["generator"].step()
        return {"l1": loss.detach()}


@img2img.hookimpl
def register(registry):
    registry.method("own", Own)
'''


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "own.py").write_text(PLUGIN)

    def run(out, name, **options):
        overrides = {"method.optimizer": name}
        place = {"plugins": [tmp_path / "own.py"], "device": "cpu", "overrides": overrides}
        return img2img.train(tmp_path / "tiny.toml", out=tmp_path / out, **place, **options)

    return run


@pytest.mark.parametrize("name", ["adafactor", "sgd", "plain", "adamw", "growing"])
def test_it_goes_on_exactly(run, tmp_path, name):
    run("whole", name)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    last = tmp_path / "cut/checkpoints/step-00000004"
    shutil.rmtree(last)
    run("cut", name, resume=True)
    one, other = tmp_path / "whole", tmp_path / "cut"
    for file in ("model", *(f"checkpoints/step-00000004/{n}" for n in ("networks", "optimizers"))):
        ours, theirs = (
            safetensors.torch.load_file(place / f"{file}.safetensors") for place in (one, other)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    groups = [
        json.loads((place / "checkpoints/step-00000004/state.json").read_text())["optimizers"]
        for place in (one, other)
    ]
    assert groups[0] == groups[1]
    if name == "growing":
        (group,) = groups[0]["generator"]["groups"]
        assert (group["seen"], group["decay"], group["most"]) == (4, 1.0, math.inf)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("growing", "lr", "x"),
        ("growing", "lr", math.inf),
        ("growing", "decay", "x"),
        ("growing", "decay", True),
        ("growing", "decay", 10**400),
        ("growing", "most", None),
        ("growing", "pair", [1]),
        ("growing", "pair", 5),
        ("growing", "params", [0]),
        ("adafactor", "maximize", 0),
        ("adamw", "amsgrad", False),
        ("adamw", "betas", [1.0, 0.9]),
        ("adamw", "betas", [0.9, math.nan]),
    ],
)
def test_settings_of_a_stranger_are_refused(name, key, value):
    plugin = {}
    exec(PLUGIN, plugin)
    optimizer = plugin["OPTIMIZERS"][name]([torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)])
    groups = json.loads(json.dumps(plain_groups(optimizer)))
    check_groups(groups, optimizer, "groups")
    groups[0][key] = value
    with pytest.raises(ValueError, match=rf"groups\.{key} should be|other parameters"):
        check_groups(groups, optimizer, "groups")


def adam(**settings):
    weights = [torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.Adam(weights, **settings)
    for weight in weights:
        weight.grad = weight.detach().clone()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("exp_avg", torch.zeros(2, 3)),
        ("exp_avg", torch.tensor(0.0)),
        ("exp_avg_sq", 3),
        ("max_exp_avg_sq", torch.zeros(3)),
        ("max_exp_avg_sq", None),
        ("step", torch.zeros(2)),
        ("step", torch.tensor(-1.0)),
        ("step", torch.tensor(math.nan)),
        ("step", torch.tensor(True)),
        ("step", torch.tensor(1.0).to(torch.float8_e4m3fn)),
    ],
)
def test_a_state_that_adams_step_would_fall_over_is_refused(key, value):
    saved, other = adam(amsgrad=True), adam(amsgrad=True)
    state = {index: dict(values) for index, values in saved.state_dict()["state"].items()}
    load_optimizer(other, state, plain_groups(saved))
    if value is None:
        del state[0][key]
    else:
        state[0][key] = value
    with pytest.raises(ValueError, match=key):
        load_optimizer(other, state, plain_groups(saved))


def test_settings_that_another_torch_knows_stay_as_they_are():
    saved, other = adam(weight_decay=0.5), adam(weight_decay=0.25, eps=1e-3)
    (group,) = plain_groups(saved)
    del group["eps"], group["decoupled_weight_decay"]
    group["of_a_later_torch"] = 5
    check_groups([group], other, "groups")
    load_optimizer(other, saved.state_dict()["state"], [group])
    assert other.param_groups[0]["eps"] == 1e-3
    assert other.param_groups[0]["weight_decay"] == 0.5
    assert other.param_groups[0]["betas"] == (0.9, 0.999)
    other.step()
