"""StableHLO: one program for every platform, for JAX to read, and never anything damaged."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import export
from jaxnets.export.stablehlo import DIGEST_MARK
from jaxnets.losses import cosines
from jaxnets.models.regnet import RegNetX


@pytest.fixture(scope="module")
def program(exporting):
    return export.embeddings(exporting.thin, exporting.variables, exporting.shape)


@pytest.fixture(scope="module")
def content(program):
    return export.export_stablehlo(program)


def operations(program):
    """How often each of StableHLO's operations is in a program."""
    names = re.findall(r"= \"?stablehlo\.(\w+)", program.lowered(["cpu"]).mlir_module())
    return {name: names.count(name) for name in set(names)}


def test_the_program_is_the_same_wherever_it_is_exported(program, exporting, monkeypatch):
    """Off the CPU too, and of plain convolutions in full precision, though the CPU has others of its own."""
    texts, on_this_machine = [], jax.default_backend
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        texts.append(program.lowered(["cpu"]).mlir_module())
        assert jax.default_backend() == platform  # it is left as it was
    monkeypatch.setattr(jax, "default_backend", on_this_machine)
    assert texts[0] == texts[1] == texts[2]
    found = operations(program)
    assert found["convolution"] == 3 and found["dot_general"] == 1 and found["reduce_window"] == 2
    assert "transpose" not in found and "real_dynamic_slice" not in found
    assert (
        texts[0].count("[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]")
        + texts[0].count("precision = [HIGHEST, HIGHEST]")
        == 4
    )

    regnet = RegNetX((1, 2), (16, 32), 8)  # of convolutions in groups, one operation each
    variables = exporting.randomised(regnet, (16, 16, 3))
    kernels = [leaf for leaf in jax.tree.leaves(variables) if leaf.ndim == 4]
    assert operations(export.scores(regnet, variables, (16, 16, 3)))["convolution"] == len(kernels)


def test_it_is_for_three_platforms_and_jax_reads_it_alone(content):
    exported = jax.export.deserialize(bytearray(content))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert [str(aval) for aval in exported.in_avals] == ["uint8[N,13,15,2]"]
    assert [str(aval) for aval in exported.out_avals] == ["float32[N,2]"]


def test_no_images_and_images_of_another_shape(content, exporting):
    run = export.load_stablehlo(content)
    none = run(exporting.images[:0])
    assert none.shape == (0, 2) and none.dtype == jnp.float32
    for wrong in (exporting.images[:, 1:], exporting.images[:0, 1:], exporting.images.astype(np.float32)):
        with pytest.raises(ValueError, match=r"Shape mismatch|Dtype mismatch"):
            run(wrong)


@pytest.mark.parametrize("other", [b"", b"no program", bytes(1000)], ids=["empty", "text", "zeros"])
def test_other_bytes_are_no_program(other):
    with pytest.raises(ValueError, match=r"^these bytes are no program that export_stablehlo wrote"):
        export.load_stablehlo(other)


@pytest.mark.parametrize("cases", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_damage_anywhere_is_told_before_xla_sees_it(cases, content, monkeypatch):
    """XLA ends the whole process at some damaged programs."""
    read = []
    monkeypatch.setattr(jax.export, "deserialize", read.append)
    dice = random.Random(0)
    for _ in range(cases):
        damaged = bytearray(content)
        place = dice.randrange(len(content))
        match dice.randrange(3):
            case 0:
                damaged[place] ^= 1 << dice.randrange(8)
            case 1:
                del damaged[place:]
            case 2:
                damaged[place:place] = dice.randbytes(dice.randint(1, 9))
        with pytest.raises(ValueError, match=r"^(these bytes are no program|this program is damaged: )"):
            export.load_stablehlo(bytes(damaged))
    # The digest is of the bytes before its mark.
    with pytest.raises(ValueError, match="damaged"):
        export.load_stablehlo(DIGEST_MARK + bytes(32))
    assert not read


def test_scores_are_scaled(exporting):
    class_weights = np.array([[3, 4], [0, -2], [5, 12]], np.float32)
    program = export.scores(exporting.thin, exporting.variables, exporting.shape, class_weights, scale=2.5)
    embeddings = exporting.natively(exporting.thin, exporting.variables, exporting.images)
    got = exporting.by["stablehlo"](program)(exporting.images)
    exporting.assert_close(got, 2.5 * np.asarray(cosines(embeddings, class_weights)))
