"""How much memory each stage of a method takes, told from the shapes of weights before anything is loaded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.console import bytes_text
from workbench.device import memory_there
from workbench.errors import UserError
from workbench.methods import Method
from workbench.models import DEQUANTIZED, SHIPPED, Precision, held_bytes, weight_shapes
from workbench.models.checkpoint import WHOLE

# Of a trained weight: itself, its gradient and Adam's two moments, all in float32.
TRAINED_WEIGHT, FLOAT32 = 16, 4
# Of a layer that is summed in float32: itself, the sum, what is added, and that before it is scaled.
SUMMED = 4 * FLOAT32


@dataclass(frozen=True)
class StageBytes:
    """What is held at each stage of a method, in bytes; activations and the cache of answers come on top.

    Attributes:
        training: the base as it is held, and what is trained with its gradients and moments.
        scoring: the base in the precision of what is shipped, and the adapter; where it may be dequantized, beside the
            quantized weights that it is made of.
        merging: the same, and one layer as it is summed.
        proving: the merged checkpoint, read back; the model that was merged is gone by then.
        disk: the adapter and the merged checkpoint.
    """

    training: int
    scoring: int
    merging: int
    proving: int
    disk: int


def stage_bytes(
    shapes: Mapping[str, Sequence[int]], method: Method, precision: Precision, trainable: int, shipped_bits: int
) -> StageBytes:
    """Memory of the stages of a method.

    Args:
        shapes: of the base's weights, by name.
        precision: of the method.
        trainable: weights that are trained.
        shipped_bits: of a number of a merged checkpoint, 32 or 16.
    """
    shipped = held_bytes(shapes, shipped_bits)
    if not method.trains:
        return StageBytes(training=0, scoring=held_bytes(shapes, precision.scored_bits), merging=0, proving=0, disk=0)
    if method.trains_base:
        return StageBytes(
            training=TRAINED_WEIGHT * trainable, scoring=shipped, merging=shipped, proving=shipped, disk=shipped
        )
    adapter, merges = FLOAT32 * trainable, bool(precision.bases)
    held = held_bytes(shapes, precision.trained_bits)
    merging = held_bytes(shapes, precision.scored_bits) + adapter
    layer = SUMMED * max((math.prod(shape) for name, shape in shapes.items() if not WHOLE.search(name)), default=0)
    return StageBytes(
        training=held + TRAINED_WEIGHT * trainable,
        scoring=merging + (held if DEQUANTIZED in precision.bases else 0),
        merging=merging + layer if merges else 0,
        proving=shipped if merges else 0,
        disk=adapter + (shipped if merges else 0),
    )


def require_memory(path: Path, shipped_in: str) -> None:
    """Refuse a checkpoint that can't be scored here, before hours are spent on training it.

    Args:
        shipped_in: in what it is to be scored, merged and proven, one of `SHIPPED`.

    Raises:
        UserError: its weights alone are larger than the memory of the device.
    """
    shapes, there = weight_shapes(path), memory_there()
    taken = {name: held_bytes(shapes, bits) for name, bits in SHIPPED.items()}
    if taken[shipped_in] <= there:
        return
    less = min(taken, key=taken.__getitem__)
    instead = f"--precision {less} takes {bytes_text(taken[less])}"
    if taken[less] > there:
        instead = f"{less} would take {bytes_text(taken[less])}: take a smaller checkpoint"
    raise UserError(
        f"the weights in {path} take {bytes_text(taken[shipped_in])} in {shipped_in}, in which what is trained is "
        f"scored and merged, and there are {bytes_text(there)} here; {instead}"
    )
