"""Zeros put into a model at random, as whoever pruned it may have done."""

import torch


def disturb(model):
    """Give norms statistics and weights that a fresh layer does not have, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


def zero(model, generator):
    """Zero columns, rows (with and without their bias), blocks of rows, entries, all of a parameter, or nothing."""

    def chance(*shape):
        return torch.rand(shape, generator=generator)

    few = chance(1).item() < 0.5  # zeros in some layers alone: all others keep everything in place
    with torch.no_grad():
        for module in model.modules():
            if few and chance(1).item() < 0.6:
                continue
            parameters = dict(module.named_parameters(recurse=False))
            for name, parameter in parameters.items():
                kind = chance(1).item()
                if parameter.dim() == 0 or kind < 0.15 or (parameter.dim() < 2 and kind < 0.8):
                    continue
                rows = chance(parameter.shape[0]) < 0.5
                if kind < 0.35:
                    parameter[..., chance(parameter.shape[-1]) < 0.5] = 0
                elif kind < 0.4:
                    middle = parameter.movedim(-2, 0) if parameter.dim() > 1 else parameter
                    middle[chance(middle.shape[0]) < 0.5] = 0
                elif kind < 0.5:
                    parameter[rows] = 0
                elif kind < 0.85:
                    if kind < 0.65:  # a head
                        rows = torch.arange(parameter.shape[0]) < parameter.shape[0] // 2
                    parameter[rows] = 0
                    bias = parameters.get("bias")
                    if name != "bias" and bias is not None and bias.shape[0] == len(rows):
                        bias[rows] = 0
                elif kind < 0.95:
                    parameter[chance(*parameter.shape) < 0.6] = 0
                else:
                    parameter.zero_()
