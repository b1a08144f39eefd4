"""Weights through both directions: exact arrays, PyTorch's outputs, every network's names, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnets import models
from jaxnets.models.conv_stack import BACKBONES, MYNN_DEEP
from jaxnets.torch_weights import from_torch, read, save, to_torch
from jaxnets.torch_weights.names import Free, entries

HEAVY = "vgg16"  # 134 million parameters: its names and shapes alone are tested
FILES = ["checkpoint.pth", "legacy.pth", "thin.safetensors"]


def numbered(variables):
    """The same shapes, float32; no two elements have the same bits, NaNs among them."""
    start = 0

    def fill(leaf):
        nonlocal start
        start += leaf.size
        return np.arange(start - leaf.size, start, dtype=np.uint32).view(np.float32).reshape(leaf.shape)

    return jax.tree.map(fill, variables)


def variables_of(name, shape=(1, 64, 64, 3), num_outputs=2):
    variables = jax.eval_shape(
        lambda: models.create(name, num_outputs).init(jax.random.key(0), jnp.zeros(shape), train=False)
    )
    return {"batch_stats": {}} | numbered(variables)


def same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def by_hand(weights):
    """The thin network's variables, element by element where the order changes."""
    params, stats = {}, {}
    for i in (0, 2, 3):
        old, new = f"hidden_layer.{i}", f"hidden_layer_{i}"
        params[new] = {
            "kernel": np.moveaxis(weights[f"{old}.0.weight"], (0, 1), (3, 2)),
            "scale": weights[f"{old}.1.weight"],
            "bias": weights[f"{old}.1.bias"],
            "slope": weights[f"{old}.2.weight"][0],
        }
        stats[new] = {"mean": weights[f"{old}.1.running_mean"], "var": weights[f"{old}.1.running_var"]}
    kernel = np.zeros((20, 3), np.float32)
    for channel, row, column in np.ndindex(5, 2, 2):
        kernel[row * 10 + column * 5 + channel] = weights["fc.0.weight"][:, channel * 4 + row * 2 + column]
    params["fc_0"] = {"kernel": kernel, "bias": weights["fc.0.bias"]}
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("file", FILES)
def test_files_of_pytorch_give_its_arrays_and_its_outputs(file, thin, torch_files, expected, thin_weights):
    variables = from_torch(thin, torch_files / file)
    same_bits(variables, by_hand(thin_weights))
    images = expected["images"].transpose(0, 2, 3, 1)
    outputs = jax.jit(models.create(thin, 3).apply)(variables, images)
    scale = np.abs(expected["outputs"]).max()
    np.testing.assert_allclose(outputs / scale, expected["outputs"] / scale, rtol=0, atol=1e-5)


def test_thin_weights_there_and_back(thin, thin_weights):
    back = to_torch(thin, from_torch(thin, thin_weights))
    counters = {name: back.pop(name) for name in list(back) if name.endswith("num_batches_tracked")}
    same_bits(back, thin_weights)
    assert set(counters) == {f"hidden_layer.{i}.1.num_batches_tracked" for i in (0, 2, 3)}
    assert all(counter.dtype == np.int64 and counter.shape == () and counter == 0 for counter in counters.values())


QUICK = {  # of variants that share an architecture, one
    *{backbone: name for name, backbone in BACKBONES.items()}.values(),
    "iresnet18",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in (*BACKBONES, *models.IRESNETS) and name not in QUICK else ()
        )
        for name in models.NAMES
        if name != HEAVY
    ],
)
def test_every_network_there_and_back(name):
    variables = variables_of(name, num_outputs=3)
    state_dict = to_torch(name, variables)
    back = from_torch(name, state_dict)
    same_bits(back, variables)
    same_bits(to_torch(name, back), state_dict)


def test_names_of_the_study():
    layers = [f"hidden_layer.{i}" for i in (0, 1, 3, 4, 6, 7)]
    leaves = ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight"]
    wanted = {f"{layer}.{leaf}" for layer in layers for leaf in leaves} | {"fc.0.weight", "fc.0.bias"}
    assert {entry.name for entry in entries("v1_2_3")} == wanted
    for name in ("mynn", "mynn_relu"):
        assert {entry.name for entry in entries(name)} == {
            f"model1.{i}.{leaf}" for i in (0, 2, 4, 7, 8) for leaf in ("weight", "bias")
        }


def test_linears_after_a_flatten_are_permuted_and_no_others():
    permuted = {entry.name: entry.channels for name in ("mynn", "vgg16", "v0") for entry in entries(name)}
    assert {name: channels for name, channels in permuted.items() if channels > 1} == {
        "model1.7.weight": 64,
        "classifier.0.weight": 512,
        "fc.0.weight": 256,
    }


def test_networks_of_torchvision_have_its_names_and_shapes():
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    for name in ("resnet18", "resnet50", "regnet_x_400mf", "mobilenet_v2", "vgg16"):
        with torch.device("cpu" if name.startswith("regnet") else "meta"):  # it computes its widths with tensors
            theirs = getattr(torchvision.models, name)(num_classes=7).state_dict()
        sizes = {Free("outputs"): 7, Free("channels"): 3}
        table = entries(name)
        ours = {entry.name: tuple(sizes.get(size, size) for size in entry.torch_shape) for entry in table}
        ours |= {entry.counter: () for entry in table if entry.counter}
        assert ours == {key: tuple(value.shape) for key, value in theirs.items()}, name


@pytest.mark.parametrize("name", ["v1_2_3", "v1_1_3", "v0", "mynn_deep"])
def test_a_live_network_computes_the_same_and_takes_our_weights_back(name, tmp_path):
    torch = pytest.importorskip("torch")
    from experiments.torch_peer import Net

    torch.manual_seed(0)
    backbone = (BACKBONES | {"mynn_deep": MYNN_DEEP})[name]
    net = Net(backbone).eval()
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if ".1." in key and value.dtype == torch.float32:  # BatchNorm's, which would be zeros and ones
                value.uniform_(0.5, 1.5)
    images = torch.rand(8, 1, 28, 28)
    theirs = net(images).detach().numpy()
    variables = from_torch(name, net.state_dict())
    ours = jax.jit(models.create(name).apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())

    save(tmp_path / "net.pth", name, variables)
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)
    fresh = Net(backbone).eval()
    fresh.load_state_dict(loaded, strict=True)
    assert all(torch.equal(value, loaded[key]) for key, value in net.state_dict().items())
    np.testing.assert_array_equal(fresh(images).detach().numpy(), theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_live_tensors_of_every_floating_dtype(dtype, thin, thin_weights, tmp_path):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    tensors = {name: torch.nn.Parameter(torch.from_numpy(value).to(kind)) for name, value in thin_weights.items()}
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
        variables = from_torch(thin, tmp_path / "net.pth")
        same_bits(variables, from_torch(thin, tensors))
        same_bits(variables, from_torch(thin, {k: v.astype(jnp.dtype(dtype)) for k, v in thin_weights.items()}))
    for ending in ("pth", "safetensors"):
        save(tmp_path / f"again.{ending}", thin, variables)
        same_bits(from_torch(thin, tmp_path / f"again.{ending}"), variables)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_are_kept(dtype, thin, thin_weights, tmp_path):
    weights = {name: value.astype(jnp.dtype(dtype)) for name, value in thin_weights.items()}
    variables = from_torch(thin, weights)
    same_bits(variables, by_hand_as(weights, thin_weights))
    save(tmp_path / "net.safetensors", thin, variables)
    same_bits(from_torch(thin, tmp_path / "net.safetensors"), variables)


def by_hand_as(weights, thin_weights):
    dtype = weights["fc.0.bias"].dtype
    return jax.tree.map(lambda leaf: leaf.astype(dtype), by_hand(thin_weights))


def test_outputs_channels_and_the_size_of_images_follow_from_the_weights():
    """Of images that are not square, too."""
    variables = variables_of("mynn", (1, 16, 24, 4), num_outputs=5)
    kernel = variables["params"]["model1_7"]["kernel"]
    state_dict = to_torch("mynn", variables)
    assert {name: value.shape for name, value in state_dict.items() if "weight" in name} == {
        "model1.0.weight": (32, 4, 5, 5),
        "model1.2.weight": (32, 32, 5, 5),
        "model1.4.weight": (64, 32, 5, 5),
        "model1.7.weight": (64, 384),
        "model1.8.weight": (5, 64),
    }
    for channel, row, column in ((0, 0, 0), (63, 0, 2), (5, 1, 1), (63, 1, 2)):
        theirs = state_dict["model1.7.weight"][:, channel * 6 + row * 3 + column]
        assert theirs.tobytes() == kernel[(row * 3 + column) * 64 + channel].tobytes()
    same_bits(from_torch("mynn", state_dict), variables)


def test_class_weights_travel_with_the_network(thin, thin_weights, tmp_path):
    class_weights = np.arange(21, dtype=np.float32).reshape(7, 3)
    variables = from_torch(thin, thin_weights) | {"head": {"class_weights": class_weights}}
    assert to_torch(thin, variables)["head.weight"].tolist() == class_weights.T.tolist()
    save(tmp_path / "net.safetensors", thin, variables)
    assert read(tmp_path / "net.safetensors")["head.weight"].shape == (3, 7)
    same_bits(from_torch(thin, tmp_path / "net.safetensors"), variables)
    images = jnp.zeros((1, 12, 12, 2))
    assert jax.eval_shape(models.create(thin, 3).apply, variables, images).shape == (1, 3)  # a head does not disturb
    with pytest.raises(ValueError, match=r"of another shape: head\.weight \[7, 3\] for \[3, 3\]"):
        from_torch(thin, thin_weights | {"head.weight": class_weights})
    with pytest.raises(ValueError, match=r"not expected: head/extra \[1\]"):
        to_torch(thin, variables | {"head": {"class_weights": class_weights, "extra": np.ones(1, np.float32)}})


def test_sub_centres_of_classes(thin, thin_weights):
    class_weights = np.arange(42, dtype=np.float32).reshape(7, 2, 3)  # classes, sub-centres, dimensions
    variables = from_torch(thin, thin_weights) | {"head": {"class_weights": class_weights}}
    state_dict = to_torch(thin, variables)
    assert state_dict["head.weight"].shape == (3, 7, 2)
    assert state_dict["head.weight"][1, 5, 0] == class_weights[5, 0, 1]
    same_bits(from_torch(thin, state_dict), variables)


def test_variables_on_devices_and_memory_of_their_own(thin, thin_weights):
    variables = from_torch(thin, thin_weights)
    same_bits(to_torch(thin, jax.tree.map(jnp.asarray, variables)), to_torch(thin, variables))
    for leaf in jax.tree.leaves(variables):
        assert leaf.flags.owndata and leaf.flags.c_contiguous and leaf.flags.writeable
