"""Liveness is sound: what it drops may hold anything."""

import pytest
import torch

import upscale_fx
from tests.analysis.live_channels import GRAPHS, MODELS, build, largest_change, run
from tests.selection import every, only
from upscale_fx.analysis.dataflow import analyse, needed
from upscale_fx.analysis.heads import head_blocks

# Of a handful of channels one that pads is more than the tenth that is not worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")


@pytest.mark.parametrize("zeros", only(["rows"], ["columns", "rows"]))
@pytest.mark.parametrize("name", every(3, MODELS))
def test_dropped_channels_may_hold_anything(name, zeros):
    """Dropped for nobody reads it: large noise moves nothing. Dropped for it is zero: it is zero."""
    traced = upscale_fx.trace(build(name, zeros), GRAPHS[0])
    flow = analyse(traced)
    kept = needed(flow, {}, head_blocks(flow))
    dropped = 0

    def disturb(node, value):
        nonlocal dropped
        if node.op in ("get_attr", "placeholder", "output") or node not in flow.axes:
            return value
        shape = flow.axes[node].shape
        keep = torch.from_numpy(kept[node].reshape(shape)) if node in kept else torch.zeros(shape, dtype=torch.bool)
        may_be_nonzero = torch.from_numpy(flow.nonzero[node].reshape(shape))
        dropped += int((~keep).sum())
        assert not (value * (~keep & ~may_be_nonzero)).any(), f"{node.name} is called zero but is not"
        return value + 1e3 * torch.randn_like(value) * (~keep & may_be_nonzero)

    for arguments in GRAPHS:
        assert largest_change(run(traced, arguments), run(traced, arguments, disturb)) < 1e-9
    assert dropped, "nothing was dropped, so nothing was shown"
