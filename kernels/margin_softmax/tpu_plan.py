"""The numbers of rows and classes in a block of `mosaic_tpu` that fit in VMEM."""

from typing import Any

LANES = 128  # numbers in a row of a TPU's vector registers


def block(rows: int, classes: int, vmem: int, x: Any, w: Any) -> tuple[int, int]:
    """Rows and classes of a block for x [N, D] and w [C, K, D]: at most the given numbers, in multiples of 128.

    The larger of the two is halved until the block fits in `vmem` bytes.

    Raises:
      NotImplementedError: where 128 rows and 128 classes do not fit.
    """
    while block_bytes(rows, classes, x, w) > vmem:
        if max(rows, classes) <= LANES:
            num_centers, length = w.shape[1:]
            raise NotImplementedError(
                f"pallas_tpu's blocks of [{num_centers}, {length}] a class are too large for VMEM"
            )
        rows, classes = (rows, classes // 2) if classes > rows else (rows // 2, classes)
    return rows, classes


def block_bytes(rows: int, classes: int, x: Any, w: Any) -> int:
    """An estimate for the largest kernel: two buffers of each operand and result, the sums, and intermediate values."""
    num_centers, length = w.shape[1], whole(w.shape[2], LANES)
    of_x, of_w = rows * length, num_centers * classes * length
    buffers = 2 * (of_x * x.dtype.itemsize + 2 * of_w * w.dtype.itemsize + 2 * rows * LANES * 4)
    return int(buffers + 4 * (of_w + 2 * classes * length + of_x + (num_centers + 4) * rows * classes))


def whole(number: int, multiple: int) -> int:
    """`number`, rounded up to a multiple."""
    return -(-number // multiple) * multiple
