"""Images, and models of images in eval mode with statistics of their own."""

import torch
from torch import nn

import upscale_fx

SIDE, PATCHES, BATCHES = 16, 16, (1, 2, 5)


def images(count, seed=1):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def settled(model):
    """The model in eval mode with running statistics of its own, and scales and shifts that are not all alike."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
        model.train()
        for seed in range(3):
            model(images(4, seed))
    return model.eval()


def assert_exact(expected, found, mode="eval"):
    getattr(expected, mode)()
    getattr(found, mode)()
    for count in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(found(images(count)), expected(images(count)), rtol=1e-10, atol=1e-10)


def pruned(model, **options):
    """What ``prune`` gives, and the masked model it must equal."""
    example = (images(2),)
    return tuple(f(model, 0.5, example_inputs=example, **options) for f in (upscale_fx.prune, upscale_fx.mask))


def weights(model):
    return {name: value.numel() for name, value in model.named_parameters() if value.dim() > 1}
