"""Liveness is not lazy: what a compacted graph carries is not dead."""

import copy
from functools import partial

import pytest
import torch

import upscale_fx
from tests.analysis.live_channels import GRAPHS, MODELS, build, largest_change, run
from tests.selection import every
from upscale_fx.analysis.dataflow import analyse
from upscale_fx.analysis.heads import head_blocks
from upscale_fx.channels.relations import Barrier, Pointwise, Reduction

# Of a handful of channels one that pads is more than the tenth that is not worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore::upscale_fx.UpscaleWarning")


def excused(flow, blocks, node):
    """Why a value may carry a dead channel, or ""."""
    relation = flow.relations[node]
    readers = [flow.relations.get(user) for user in node.users]
    if node in blocks:
        return "heads are rectangular: ragged ones are padded"
    if isinstance(relation, Barrier) or any(isinstance(reader, Barrier) for reader in readers):
        return "a barrier keeps every channel, before and after it"
    if any(isinstance(reader, Reduction) and reader.how == "max" for reader in readers):
        return "a maximum over channels reads all of them"
    if flow.axes[node].count == 1:
        return "one channel always stays, for its rows"
    return ""


def _meets_nonzero(flow, node, source, asked):
    """The positions of a factor that meet one that may differ from zero, where a result is asked for."""
    relation = flow.relations[node]
    met = torch.zeros(flow.axes[source].count, dtype=torch.bool).numpy()
    for own in (f for f in relation.flows if f.source is source):
        meets = asked.copy()
        for other in (f for f in relation.flows if f is not own and relation.zero == "any"):
            meets &= flow.nonzero[other.source][other.index]
        met[own.index[meets]] = True
    return met


def beside_zeros(flow):
    """Positions that only ever meet a factor that is zero for sure.

    They stay: the product is zero, but its rows are needed (a bias follows), and the factors are whole tensors.
    """
    asked = {node: torch.ones(flow.axes[node].count, dtype=torch.bool).numpy() for node in flow.outputs}
    for node in reversed(flow.nodes):
        if node.op == "output" or node not in flow.axes or node not in asked or not asked[node].any():
            continue
        relation = flow.relations[node]
        for source, wanted in relation.need(asked[node], flow.nonzero):
            met = _meets_nonzero(flow, node, source, asked[node]) if isinstance(relation, Pointwise) else wanted
            asked[source] = asked[source] | met if source in asked else met
    return {
        node: ~asked.get(node, torch.zeros(axes.count, dtype=torch.bool).numpy()) for node, axes in flow.axes.items()
    }


def _disturb(name, size, node, value):
    return value + size * torch.randn_like(value) if node.name == name else value


def moves(compacted, expected, node, mask):
    """Whether outputs move when one channel of one value is disturbed in all rows: small for tanh, large for max.

    A maximum, or an activation that saturates, may hide a channel; then other weights, zero where these are, decide.
    """
    module = compacted
    for size in (1, 100, 1, 100, 10, 10):
        change = partial(_disturb, node.name, size * mask)
        for arguments, before in zip(GRAPHS, expected, strict=True):
            if largest_change(before, run(module, arguments, change)) > 1e-13:
                return True
        module = copy.deepcopy(compacted)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(torch.randn_like(parameter))
        expected = [run(module, arguments) for arguments in GRAPHS]
    return False


# Not GATv2 with zero rows: a head whose messages are all the same constant does not depend on its logits, because a
# softmax sums to one. To see that, constants would have to be followed, and they are not yet.
@pytest.mark.parametrize(
    ("name", "zeros"),
    every(
        10, [(name, zeros) for name in MODELS for zeros in ("columns", "rows") if (name, zeros) != ("GATv2", "rows")]
    ),
)
def test_no_carried_channel_is_dead(name, zeros):
    compacted = upscale_fx.compact(build(name, zeros), example_inputs=GRAPHS[0])
    flow = analyse(compacted)
    blocks = head_blocks(flow)
    spare = beside_zeros(flow)
    expected = [run(compacted, arguments) for arguments in GRAPHS]
    dead, looked_at = [], 0
    for node in flow.nodes:
        if node.op in ("placeholder", "get_attr", "output") or node not in flow.axes:
            continue
        if not flow.values[node][0].is_floating_point() or excused(flow, blocks, node):
            continue
        shape = flow.axes[node].shape
        for channel in range(flow.axes[node].count):
            mask = (torch.arange(flow.axes[node].count) == channel).reshape(shape)
            looked_at += 1
            torch.manual_seed(channel)
            if not spare[node][channel] and not moves(compacted, expected, node, mask):
                dead.append(f"{node.name}[{channel}] of {flow.axes[node].count} ({node.meta.get('source', '')})")
    assert not dead
    assert looked_at, "every value was excused"
