"""The twelve recipes of the ArcLoss study as data: each is an earlier one with a change.

Imports nothing that takes time: `--list` and `--help` read it.
"""

import dataclasses
from dataclasses import replace


@dataclasses.dataclass(frozen=True)
class Adam:
    """PyTorch's defaults."""

    learning_rate: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Sgd:
    """With PyTorch's StepLR where `decay_every` epochs are given: the rate is multiplied by `decay` each time."""

    learning_rate: float
    momentum: float = 0.0
    decay_every: int | None = None
    decay: float = 0.8


@dataclasses.dataclass(frozen=True)
class Variant:
    """`name` is the network's in `jaxnets.models` too; `net` and `head` optimise the backbone and the class weights."""

    name: str
    change: str
    verdict: str
    net: Adam | Sgd = Adam()
    head: Adam | Sgd = Adam()
    batch_size: int = 256


V0 = Variant("v0", "five 3×3 layers, Adam", "classes never fully split; mid-training the picture explodes")
V1 = replace(
    V0, name="v1", change="deeper: nine 5×5 layers up to 512 wide", verdict="loss stops falling after ten-odd epochs"
)
V1_1 = replace(
    V1,
    name="v1_1",
    change="Adam → SGD",
    verdict="best: clearly separated; slower to train",
    net=Sgd(1e-3, momentum=0.9, decay_every=20),
    head=Sgd(0.5),
)
V1_1_2 = replace(V1_1, name="v1_1_2", change="narrower", verdict="good: clearly separated; slower to converge")
V1_1_3 = replace(
    V1_1_2,
    name="v1_1_3",
    change="linear head → convolution",
    verdict="some classes overlap; worse than the linear head",
)
V1_1_4 = replace(
    V1_1,
    name="v1_1_4",
    change="v1_1 with learning rate 1e-3 → 1e-2",
    verdict="classes overlap",
    net=replace(V1_1.net, learning_rate=1e-2),
)
V1_2 = replace(V1_1, name="v1_2", change="v1_1 shallower: six 3×3 layers", verdict="fast, but converges worse; overlap")
V1_2_2 = replace(V1_2, name="v1_2_2", change="six 5×5 layers, narrower", verdict="overlap")
V1_2_3 = replace(
    V1_2_2,
    name="v1_2_3",
    change="learning rate 1e-3 → 1e-2",
    verdict="good: clearly separated, converges fast",
    net=replace(V1_2_2.net, learning_rate=1e-2),
)
V1_2_4 = replace(V1_2_3, name="v1_2_4", change="batch 256 → 512", verdict="overlap", batch_size=512)
V2 = replace(V1, name="v2", change="v1 deeper and narrower: ten layers, 32 wide", verdict="overlap")
V2_1 = replace(
    V2,
    name="v2_1",
    change="Adam → SGD at 1e-2",
    verdict="overlap",
    net=replace(V1_1.net, learning_rate=1e-2),
    head=V1_1.head,
)

VARIANTS = {
    variant.name: variant for variant in (V0, V1, V1_1, V1_1_2, V1_1_3, V1_1_4, V1_2, V1_2_2, V1_2_3, V1_2_4, V2, V2_1)
}
