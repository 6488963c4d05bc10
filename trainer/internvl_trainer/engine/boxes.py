"""Rectangular parts of a tensor that lie in a range of flat memory: pure arithmetic on shapes and strides."""

from collections.abc import Iterator, Sequence

from internvl_trainer.contract.boxes import Box


def boxes_in_range(shape: Sequence[int], strides: Sequence[int], first: int, end: int) -> Iterator[Box]:
    """Cut out of a tensor the elements at flat positions `first` to `end`, exclusive, as few boxes.

    An element's position is the sum of its indices times the strides, in elements; the range may reach beyond the
    tensor at both sides. Of a matrix these are the end of a row, whole rows and the beginning of a row; of a tensor
    with n axes at most 2 n - 1 boxes.

    Args:
        shape: the tensor's extent along each axis.
        strides: its strides, in the order of memory: stepping along an axis leads past all of the axes behind it.
        first: position of the range's first element.
        end: position after its last element.

    Raises:
        ValueError: the strides are not in the order of memory.
    """
    if 0 in shape:
        return
    row = _extent(shape[1:], strides[1:])
    if first <= 0 and _extent(shape, strides) <= end:
        yield Box((0,) * len(shape), tuple(shape))
        return
    if not shape:
        return
    rows = shape[0]
    step = strides[0] if rows > 1 else row  # the stride along an axis of one element means nothing
    if step < row:
        raise ValueError(f"a tensor of shape {tuple(shape)} with strides {tuple(strides)} is not in memory's order")
    begun, touched = max(0, (first - row) // step + 1), min(rows, -(-end // step))
    whole, broken = max(0, -(-first // step)), min(rows, (end - row) // step + 1)
    if whole < broken:
        yield Box((whole, *(0 for _ in shape[1:])), (broken - whole, *shape[1:]))
    for number in range(begun, touched):
        if not whole <= number < broken:
            for box in boxes_in_range(shape[1:], strides[1:], first - number * step, end - number * step):
                yield Box((number, *box.offset), (1, *box.shape))


def _extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Distance from a tensor's first element to after its last one; 1 for a tensor without axes."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
