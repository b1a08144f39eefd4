"""State dicts in what training scripts save around them, and what is said of those that do not fit."""

import jax
import numpy as np
import pytest

from jaxnets import create
from jaxnets.pickles import Inert
from jaxnets.torch_weights import from_torch, to_torch


def same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3, "best": np.float32(0.5)},
        lambda weights: {"model": weights, "optimizer": {"state": {0: {"step": np.ones(())}}, "param_groups": [{}]}},
        lambda weights: {
            "model": {f"net.{k}": v for k, v in weights.items()},
            "rng": {"cpu": np.ones(3), "gpu": np.ones(3)},
        },
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
        lambda weights: {name.replace("hidden_layer.2.", "hidden_layer.2.layer."): v for name, v in weights.items()},
        lambda weights: {name.replace("hidden_layer.2.", "hidden_layer.2.0."): v for name, v in weights.items()},
        lambda weights: weights | {"hidden_layer.2.1.num_batches_tracked": np.array(17)},
    ],
    ids=[
        "state_dict",
        "model",
        "beside other arrays",
        "module",
        "compiled",
        "one level more",
        "one numbered level more",
        "counter",
    ],
)
def test_accepted_forms(wrap, thin, thin_weights):
    same_bits(from_torch(thin, wrap(thin_weights)), from_torch(thin, thin_weights))


@pytest.mark.parametrize("prefix", ["model.", "module.net.", "a.b.c."])
def test_a_prefix_that_all_names_share_is_taken_off(prefix, thin, thin_weights):
    prefixed = {f"{prefix}{name}": value for name, value in thin_weights.items()}
    counters = {"n_averaged": np.array(3), f"{prefix}hidden_layer.2.1.num_batches_tracked": np.array(17)}
    same_bits(from_torch(thin, prefixed | counters), from_torch(thin, thin_weights))
    class_weights = np.ones((3, 7), np.float32)
    same_bits(from_torch(thin, prefixed | {"head.weight": class_weights})["head"], {"class_weights": class_weights.T})
    with pytest.raises(ValueError, match=r"not expected: other\.weight \[1\]"):
        from_torch(thin, thin_weights | {"other.weight": np.ones(1, np.float32)})
    alone = {f"{prefix}fc.0.bias": thin_weights["fc.0.bias"], "loss.weight": np.ones(1)}
    with pytest.raises(
        ValueError, match=rf"not expected: {prefix.removeprefix('module.')}fc\.0\.bias \[3\], loss\.weight \[1\]"
    ):
        from_torch(thin, alone)  # not all share it


def test_names_of_the_network_are_no_prefix():
    """All of mynn's begin with `model1.`."""
    variables = jax.eval_shape(create("mynn").init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variables | {"batch_stats": {}})
    state_dict = to_torch("mynn", variables)
    same_bits(from_torch("mynn", state_dict), variables)
    same_bits(from_torch("mynn", {f"model.{name}": value for name, value in state_dict.items()}), variables)
    with pytest.raises(ValueError, match=r"does not fit v0: .*; not expected: model1\.0\.bias \[32\]"):
        from_torch("v0", state_dict)


def test_sizes_that_the_weights_decide_are_named_in_words(thin, thin_weights):
    assert from_torch(thin, thin_weights, num_outputs=3)
    with pytest.raises(ValueError, match=r"^the state dict does not fit thin: it has 3 outputs, not 2$"):
        from_torch(thin, thin_weights, num_outputs=2)
    thin_weights["fc.0.bias"] = np.zeros(1000, np.float32)
    with pytest.raises(ValueError, match=r"fc\.0\.weight \[3, 20\] for \[1000, 20\] \(3 outputs, not 1000\)$"):
        from_torch(thin, thin_weights)


def test_one_of_several_state_dicts_by_its_key(thin, thin_weights):
    several = {"model": {"a": np.ones(1)}, "ema": {"shadow": thin_weights, "decay": 0.9}, "last": {"a": np.ones(1)}}
    several |= {"arguments": {}, "statistics": {"mean": np.ones(1), "epoch": 3}}  # no state dicts
    same_bits(from_torch(thin, several, key="ema.shadow"), from_torch(thin, thin_weights))
    for key in ("other", "ema.decay", "ema.shadow.fc.0.bias"):
        with pytest.raises(ValueError, match=rf"holds no state dict '{key}', but model, last$"):
            from_torch(thin, several, key=key)
    with pytest.raises(ValueError, match=r"several state dicts \(model, last\): choose one with key=… \(--key …\)$"):
        from_torch(thin, several)


def test_live_tensors_without_a_dtype_of_numpys_are_named(thin, thin_weights):
    torch = pytest.importorskip("torch")
    weights = {name: torch.from_numpy(value) for name, value in thin_weights.items()}
    for name, tensor in (
        ("torch.float8_e4m3fn tensor, torch.strided, on cpu", torch.ones(3).to(torch.float8_e4m3fn)),
        ("torch.float32 tensor, torch.strided, on meta", torch.ones(3, device="meta")),
        ("torch.float32 tensor, torch.sparse_coo, on cpu", torch.ones(3).to_sparse()),
    ):
        with pytest.raises(ValueError, match=rf"no floating-point array: fc\.0\.bias \({name}\)$"):
            from_torch(thin, weights | {"fc.0.bias": tensor})


def test_an_inert_entry_is_named(thin, thin_weights):
    state_dict = thin_weights | {"fc.0.bias": Inert("torch.float8_e4m3fn tensor", ())}
    for source in (state_dict, {"model": state_dict, "epoch": 3}):
        with pytest.raises(ValueError, match=r"no floating-point array: fc\.0\.bias \(torch\.float8_e4m3fn tensor\)$"):
            from_torch(thin, source)


def test_many_faults_are_counted(thin, thin_weights):
    extra = {f"layer.{'x' * 100}.{i}": np.ones(2, np.float32) for i in range(70)}
    with pytest.raises(
        ValueError, match=r"^the state dict does not fit thin: not expected: layer\.x+… \[2\], "
    ) as error:
        from_torch(thin, thin_weights | extra)
    assert str(error.value).endswith(" and 65 more") and str(error.value).count("layer.") == 5
    assert len(str(error.value)) < 500


def test_several_state_dicts_and_doubled_entries_are_refused(thin, thin_weights):
    with pytest.raises(ValueError, match=r"the state dict holds several state dicts \(model, ema\)"):
        from_torch(thin, {"model": thin_weights, "ema": thin_weights})
    with pytest.raises(ValueError, match=r"has both fc\.0\.bias and module\.fc\.0\.bias"):
        from_torch(thin, thin_weights | {"module.fc.0.bias": thin_weights["fc.0.bias"]})


def test_all_that_does_not_fit_is_named_at_once(thin, thin_weights):
    del thin_weights["hidden_layer.3.1.weight"], thin_weights["fc.0.bias"]
    thin_weights |= {
        "fc.1.weight": np.zeros((3, 3), np.float32),
        "epoch\n": 3,
        "hidden_layer.2.2.weight": np.zeros(6, np.float32),
        "fc.0.weight": np.zeros((3, 21), np.float32),
        "hidden_layer.0.1.bias": np.zeros(4, np.int64),
        "hidden_layer.0.2.weight": "0.25",
    }
    with pytest.raises(ValueError) as error:
        from_torch(thin, thin_weights)
    assert str(error.value) == (
        "the state dict does not fit thin: missing: fc.0.bias [3], hidden_layer.3.1.weight [5]; "
        "not expected: fc.1.weight [3, 3], epoch\\n (no array); "
        "of another shape: hidden_layer.2.2.weight [6] for [1], fc.0.weight [3, 21] for [3, 5·pixels]; "
        "no floating-point array: hidden_layer.0.1.bias (int64), hidden_layer.0.2.weight (no array)"
    )
    with pytest.raises(ValueError, match="there is no network 'thick'; did you mean 'thin'"):
        from_torch("thick", thin_weights)


def test_a_file_is_named_and_so_are_variables(thin, torch_files, thin_weights):
    with pytest.raises(ValueError, match=r"legacy\.pth does not fit v2: missing: hidden_layer\.1\.0\.weight"):
        from_torch("v2", torch_files / "legacy.pth")
    variables = from_torch(thin, thin_weights)
    variables["params"]["fc_0"] = {"kernel": np.zeros((20, 3), np.float32), "scale": np.ones(3, np.float32)}
    variables["params"]["hidden_layer_0"]["slope"] = 0.25
    del variables["batch_stats"]["hidden_layer_3"]
    with pytest.raises(ValueError) as error:
        to_torch(thin, variables)
    assert str(error.value) == (
        "the variables do not fit thin: missing: params/fc_0/bias [3], batch_stats/hidden_layer_3/mean [5], "
        "batch_stats/hidden_layer_3/var [5]; not expected: params/fc_0/scale [3]; "
        "no floating-point array: params/hidden_layer_0/slope (no array)"
    )
