"""A network's weights as a file under PyTorch's names: from another such file, or from a run.

python -m experiments.convert resnet18.pth resnet18.safetensors --model resnet18
python -m experiments.convert runs/arcloss/v1_2_3/seed0 v1_2_3.safetensors
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.run.options import OptionalStr, choice
from experiments.run.terminal import UserError, as_user_error, main, parse

PROG = "python -m experiments.convert"
EXAMPLES = ("runs/arcloss/v1_2_3/seed0 v1_2_3.safetensors", "resnet18.pth resnet18.safetensors --model resnet18")
CHECKPOINTS = ("best", "last")


@dataclasses.dataclass(frozen=True)
class Config:
    """Check weights against their network, and write them under PyTorch's names."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """a .pth or .safetensors file, or a run's folder"""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """the file to write: .safetensors, or .pth where PyTorch is installed"""
    model: OptionalStr = None
    """the network of a weights file; a run's folder knows its own"""
    key: OptionalStr = None
    """of a file that holds several state dicts the one to take: model_ema, say, or ema.shadow"""
    which: Annotated[str, tyro.conf.arg(metavar=choice(CHECKPOINTS))] = CHECKPOINTS[0]
    """the state of a run's folder: the best by test accuracy, or the last"""


def command(config: Config) -> None:
    if config.which not in CHECKPOINTS:
        raise UserError(f"--which is {' or '.join(CHECKPOINTS)}, not {config.which!r}")

    import jax  # from here on, not for --help

    from experiments.trained.network import pytorch_class, state_of_run
    from jaxnets import torch_weights
    from jaxnets.naming import quoted

    recorded: dict[str, Any] = {}
    with as_user_error(ValueError), as_user_error(ImportError):
        if config.source.is_dir():
            if config.key is not None:
                raise UserError(f"--key is for files: {quoted(config.source)} is a run's folder")
            recorded, origin, variables = state_of_run(config.source, config.model, (config.which,))
            name = recorded["variant"]
        else:
            if config.model is None:
                raise UserError(f"--model must say of which network {quoted(config.source)} holds the weights")
            name, origin = config.model, quoted(config.source)
            variables = torch_weights.from_torch(name, config.source, key=config.key)
        torch_weights.save(config.target, name, variables)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(
        f"{quoted(config.target)}: {name} from {origin}; {len(jax.tree.leaves(variables))} arrays, "
        f"{parameters:,} parameters, {config.target.stat().st_size:,} bytes"
    )
    print(f"they fit {pytorch_class(name, variables)}")
    if recorded.get("inputs") == "imagenet":
        print("they expect images less ImageNet's mean, divided by its standard deviation, as torchvision's weights do")
    if variables.get("head"):
        print("with the class weights of the margin head, as head.weight, which load_state_dict is not to be given")


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
