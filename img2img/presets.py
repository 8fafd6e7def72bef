"""Where the paper and the code that people copied part: two named sets of choices.

Facts: arXiv 1611.07004 (v3, with its errata), the authors' Lua code (phillipi/pix2pix), and the
most used PyTorch port (junyanz/pytorch-CycleGAN-and-pix2pix, 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Preset = Literal["paper", "port"]


@dataclass(frozen=True)
class Fork:
    """One choice that implementations make differently.

    Attributes:
        key: the recipe's key.
        paper: its value in the preset `paper`: the text's, or the authors' code where it is silent.
        port: its value in the preset `port`.
        about: what it decides.
        source: who says so.
    """

    key: str
    paper: Any
    port: Any
    about: str
    source: str

    def value(self, preset: Preset) -> Any:
        return self.paper if preset == "paper" else self.port


FORKS = (
    Fork(
        "generator.innermost_norm",
        True,
        False,
        "whether the innermost encoder layer is normalised",
        "Paper: section 6.1.1 leaves out the first layer alone, and the errata say that with "
        "batch size 1 this zeroes the innermost layer. The authors' code and the port have none.",
    ),
    Fork(
        "generator.dropout_layers",
        (1, 2, 3),
        (2, 3, 4),
        "which decoder layers drop out, 1 being the innermost",
        "Paper: section 6.1.1, the first three (CD512-CD1024-CD1024). Port: the second to fourth.",
    ),
    Fork(
        "discriminator.conditional",
        True,
        True,
        "whether the discriminator sees the source too",
        "Paper: section 3.1, equation 1; table 1 compares with leaving it out. Port: the same.",
    ),
    Fork(
        "method.halve_discriminator",
        True,
        True,
        "whether the discriminator's objective is halved",
        "Paper: section 3.3. Port: the same. The authors' code halves the printed figure alone.",
    ),
    Fork(
        "method.generator_sees",
        "before",
        "after",
        "whether the generator's loss runs the discriminator as it was before its step, or after",
        "Paper: silent; the authors' code takes the output from before. Port: runs it again.",
    ),
    Fork(
        "train.schedule",
        "constant",
        "linear",
        "the learning rate over the run",
        "Paper: section 3.3, 2e-4 and no decay. Port: 100 epochs constant, 100 falling to 0.",
    ),
    Fork(
        "train.decay_from",
        None,
        0.5,
        "the share of the run after which a falling learning rate falls",
        "Port: half of its 200 epochs. With a constant rate it has no meaning.",
    ),
    Fork(
        "inference.statistics",
        "image",
        "image",
        "what batch norm normalises with at test time",
        "Paper: section 3.3, the statistics of the test batch, which is one image. Port: the same "
        "unless told otherwise, and then results depend on the batch; here they never do.",
    ),
    Fork(
        "inference.dropout",
        True,
        True,
        "whether dropout stays on at test time, as the only noise",
        "Paper: section 3.3. Port: the same unless told otherwise.",
    ),
)
SUMMARIES: dict[Preset, str] = {
    "paper": "What the paper's text says, and the authors' code where the text is silent.",
    "port": "What the most used PyTorch implementation does unless told otherwise.",
}


def preset_names() -> list[str]:
    """The presets that a recipe can name."""
    return list(get_args(Preset))


def preset_values(preset: Preset, table: str) -> dict[str, Any]:
    """What a preset sets in a table of the recipe, by key, as the recipe would write it."""
    found = {}
    for fork in FORKS:
        owner, _, key = fork.key.partition(".")
        value = fork.value(preset)
        if owner == table and value is not None:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found
