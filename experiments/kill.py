"""Runs that are killed at random moments, and go on, against runs that are left alone.

python -m experiments.kill --kills 100
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from PIL import Image

from experiments.run.options import check_counts
from experiments.run.terminal import UserError, main, parse

REPOSITORY = Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CLOCKS = ("seconds", "images_per_second")  # of a line of metrics, which no two runs share


@dataclasses.dataclass(frozen=True)
class Config:
    """Kill runs of both studies at random moments, have them go on, and compare them with undisturbed runs."""

    kills: int = 100
    """number of signals that must hit a running process"""
    seed: int = 0
    """decides the moments"""
    python: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """another Python, with another JAX, in which some runs go on; their last bits may differ, and are not compared"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """a JSON file for the counts"""


class Scenario(NamedTuple):
    """A training of two epochs; "PICTURES" in its arguments stands for a folder of pictures."""

    name: str
    arguments: tuple[str, ...]
    devices: int = 1

    def start(self, out: Path, pictures: Path, python: Path | None = None) -> subprocess.Popen[str]:
        words = [word.replace("PICTURES", str(pictures)) for word in self.arguments]
        flags = f"--xla_force_host_platform_device_count={self.devices} --xla_backend_optimization_level=0"
        return subprocess.Popen(
            [python or sys.executable, "-m", *words, "--devices", str(self.devices), "--epochs", "2", "--out", out],
            cwd=REPOSITORY,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


_ARCLOSS = ("experiments.arcloss", "--variant", "v0", "--batch-size", "30", "--steps-per-epoch", "60")
_MYNN = ("experiments.mynn", "--size", "16", "--batch-size", "6", "--steps-per-epoch", "60")
SCENARIOS = (
    Scenario("digits", _ARCLOSS),
    Scenario("digits, three devices", _ARCLOSS, devices=3),
    Scenario("faces, augmented", (*_MYNN, "--augment", "--averaging", "0.9")),
    Scenario("faces, three devices", _MYNN, devices=3),
    Scenario("folder", (*_MYNN, "--data", "folder:PICTURES")),
    Scenario("folder, streamed", (*_MYNN, "--data", "folder:PICTURES", "--stream")),
)


def command(config: Config) -> None:
    check_counts(config, ("kills",))
    if config.python is not None and not config.python.exists():
        raise UserError(f"there is no Python at {config.python}")
    moments, hits, runs, faults = random.Random(config.seed), Counter[str](), 0, list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        pictures = draw_pictures(Path(temporary) / "pictures")
        for number, scenario in enumerate(SCENARIOS):
            quota = config.kills * (number + 1) // len(SCENARIOS)
            if hits.total() >= quota:
                continue
            folder = Path(temporary) / str(number)
            wait(scenario.start(folder / "warm", pictures))  # compiles
            started = time.perf_counter()
            wait(scenario.start(folder / "alone", pictures))
            seconds = time.perf_counter() - started
            alone = left_behind(folder / "alone")
            while hits.total() < quota:
                runs, before = runs + 1, hits.total()
                python = config.python if runs % 3 == 0 else None
                out, more = disturb(scenario, folder / f"run{runs}", pictures, seconds, quota, moments, hits, python)
                faults += more
                if hits.total() == before:
                    seconds /= 2  # the machine has become faster: the run ended before it could be met
                if python is None and not more and left_behind(out) != alone:
                    faults.append(f"{scenario.name}: a killed run left something else than one left alone")
                shutil.rmtree(out)
                print(f"{scenario.name}: {hits.total()} kills in {runs} runs", *faults, sep="\n  ", file=sys.stderr)
    met = ", ".join(f"{count} {name}" for name, count in sorted(hits.items()))
    for fault in faults:
        print(fault)
    print(f"{hits.total()} kills ({met}) in {runs} runs of {len(SCENARIOS)} scenarios: {len(faults)} faults")
    if config.out:
        from experiments.run.records import environment, write_json  # they import JAX, which the rest does without

        counts = {"kills": dict(sorted(hits.items())), "runs": runs, "faults": faults}
        scenarios = [scenario.name for scenario in SCENARIOS]
        command = f"python -m experiments.kill {' '.join(sys.argv[1:])}"
        write_json(config.out, {"command": command, "environment": environment(), "scenarios": scenarios, **counts})
    sys.exit(1 if faults else 0)


def disturb(
    scenario: Scenario,
    out: Path,
    pictures: Path,
    seconds: float | int,
    quota: int,
    moments: random.Random,
    hits: Counter[str],
    python: Path | None,
) -> tuple[Path, list[str]]:
    """Kills a run again and again until it ends or enough signals met it, then has it end; where it is, and faults.

    After every third blow or so its folder is moved elsewhere; with `python`, that goes on with every other one.
    """
    faults: list[str] = []
    for blow in range(100):
        if hits.total() >= quota:
            break
        process = scenario.start(out, pictures, python if blow % 2 else None)
        number = moments.choice(SIGNALS)
        code, error = hit(process, number, moments.uniform(0, seconds))
        if code == 0:
            break  # it ended before it could be met
        hits[number.name] += 1
        if code not in (-number, 128 + number):  # the first before Python or the command knows of signals
            faults.append(f"{scenario.name}: exit code {code} for {number.name}: {error.splitlines()[-1:]}")
        if moments.random() < 0.3 and out.exists():
            out = out.rename(out.with_name(f"{out.name}-moved{blow}"))
    code, error = hit(scenario.start(out, pictures), None, 0)
    if code:
        faults.append(f"{scenario.name}: exit code {code} of a run that was to go on: {error.splitlines()[-1:]}")
    return out, faults


def hit(process: subprocess.Popen[str], number: signal.Signals | None, seconds: float | int) -> tuple[int, str]:
    """Sends a signal after so many seconds, unless the process has ended; returns its exit code and its stderr."""
    with process:
        try:
            _, error = process.communicate(timeout=seconds if number is not None else None)
        except subprocess.TimeoutExpired:
            assert number is not None
            process.send_signal(number)
            _, error = process.communicate()
    return process.returncode, error


def wait(process: subprocess.Popen[str]) -> None:
    """Waits for a process that is to end well.

    Raises:
      RuntimeError: it does not; with its stderr.
    """
    code, error = hit(process, None, 0)
    if code:
        raise RuntimeError(f"exit code {code}: {error}")


def draw_pictures(root: Path) -> Path:
    """Eighty pictures of two classes that their brightness tells apart."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (root / name).mkdir(parents=True)
        for i in range(40):
            Image.fromarray(rng.integers(level - 30, level + 30, (16, 16, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


def left_behind(out: Path) -> tuple[list[dict[str, object]], dict[str, bytes], dict[str, str]]:
    """Metrics, figures and digests of the last state's arrays of the one run below `out`, without times."""
    (folder,) = out.glob("*/*/seed0")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{name: value for name, value in line.items() if name not in CLOCKS} for line in lines]
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".png", ".gif", ".npz", ".safetensors")
    }
    newest = max((folder / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    digests = json.loads((newest / "digests.json").read_text())["arrays"]
    return timeless, files, {name: digest for name, digest in digests.items() if "seconds" not in name}


if __name__ == "__main__":
    main(lambda: command(parse(Config, "python -m experiments.kill")))
