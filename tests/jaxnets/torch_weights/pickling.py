"""Files of PyTorch made by hand, instruction by instruction of protocol 2. Loaded by the tests by its path."""

import pickle
import struct
import zipfile

import numpy as np

LEGACY_START = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {"int": 4}}]
SIX = np.arange(6, dtype=np.float32)


def lit(value):
    """A value of Python's own, without the pickle's beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


def named(name):
    module, _, attribute = name.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def call(name, *arguments):
    return named(name) + b"(" + b"".join(arguments) + b"tR"


def mapping(**items):
    return b"}(" + b"".join(lit(name) + value for name, value in items.items()) + b"u"


def storage(key, count, kind="torch.FloatStorage", view=None):
    end = b"" if view is None else lit(view)
    return b"(" + lit("storage") + named(kind) + lit(key) + lit("cpu") + lit(count) + end + b"tQ"


def tensor(stored, offset=0, size=(2, 3), stride=(3, 1)):
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", stored, lit(offset), lit(size), lit(stride), lit(False), hooks)


def write(path, kind, body, storages=None, order=None, protocol=2):
    """A file in one of the two formats, of a pickle's body and {key: array}."""
    storages = {} if storages is None else storages
    program = bytes([0x80, protocol]) + body + b"."
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", program)
            for key, array in storages.items():
                archive.writestr(f"net/data/{key}", array.tobytes())
            if order:
                archive.writestr("net/byteorder", order)
    else:
        parts = [*(pickle.dumps(part, 2) for part in LEGACY_START), program, pickle.dumps(list(storages), 2)]
        parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
        path.write_bytes(b"".join(parts))
    return path
