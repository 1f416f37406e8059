"""Convolutions of images and sequences."""

from __future__ import annotations

from torch import fx
from torch.nn import functional as F

from upscale_fx.channels.positions import Axes
from upscale_fx.channels.relations import Relation
from upscale_fx.channels.relations.convolutions import Convolution
from upscale_fx.channels.rules.operation import Operation
from upscale_fx.channels.rules.registry import register

#: The position of ``groups`` among the arguments of each convolution.
_GROUPS = 6


@register(F.conv1d, F.conv2d, F.conv3d)
def convolution(op: Operation) -> Relation | None:
    """``conv2d(x [B, I, H, W], weight [O, I, h, w], bias [O])`` of a batch, in one group; other forms are barriers."""
    x, weight, bias = op.argument(0, "input"), op.argument(1, "weight"), op.argument(2, "bias")
    image, kernel, result = op.axes_of(x), op.axes_of(weight), op.axes
    if image is None or kernel is None or x is weight or op.argument(_GROUPS, "groups", default=1) != 1:
        return None
    if not _is_batch(image, kernel) or result.sizes[1] != kernel.sizes[0]:
        return None
    if 0 in (image.count, kernel.count, result.count):
        return None
    outputs, inputs = kernel.shape[:2]
    places = (result.count // outputs, image.count // inputs, kernel.count // (outputs * inputs))
    return Convolution(x, weight, bias if isinstance(bias, fx.Node) else None, (outputs, inputs), places)


def _is_batch(image: Axes, kernel: Axes) -> bool:
    """Whether the first axis holds rows (one position), the second the channels that a static kernel reads."""
    if len(image.sizes) != len(kernel.sizes) or None in kernel.sizes:
        return False
    return image.shape[0] == 1 and image.sizes[1] == kernel.sizes[1]
