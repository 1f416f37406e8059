"""Models whose consumers are known by name, and which of their channels are zero."""

import math

import numpy as np
import torch

from upscale_fx.models import SAGE

HIDDEN_READERS = ("convs.1.lin_l", "convs.1.lin_r", "convs.2.lin_l", "convs.2.lin_r")
RAW_READERS = ("convs.0.lin_l", "convs.0.lin_r")


def sage(width=16):
    """Four consumers of hidden channels, ``HIDDEN_READERS``, and two of raw ones."""
    return SAGE(6, width, 3)


def zero_columns(model, layer):
    """Input channels of a layer whose whole column is zero, as a set."""
    weight = model.get_parameter(f"{layer}.weight")
    return set((weight == 0).all(dim=0).nonzero().flatten().tolist())


def zero_counts(model, layers):
    return [len(zero_columns(model, layer)) for layer in layers]


def fill_weights(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.fill_(value)
    return model


def per_head(channels, heads, width):
    """How many of the given channels of ``[heads, width]`` lie in each head."""
    return np.bincount([channel // width for channel in channels], minlength=heads).tolist()


def columns_l2(weight):
    return [math.sqrt(sum(v * v for v in column)) for column in weight.T.tolist()]
