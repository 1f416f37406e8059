"""Forward passes with blocks that take no gradients, of one model that has layers of several kinds."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, SAGEConv, TransformerConv, global_mean_pool


class Layers(nn.Module):
    """Layers of several kinds, for the forwards below."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.gat = GCNConv(8, 8), SAGEConv(8, 8), GATConv(8, 4, heads=2)
        self.v2, self.transformer = GATv2Conv(8, 8), TransformerConv(8, 8)
        self.norm, self.lin, self.head = nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.sub = Decorated()
        self.run = (forward,)

    def forward(self, x, edge_index):
        return self.run[0](self, x, edge_index)


class Decorated(nn.Module):
    """A layer that never takes gradients."""

    def __init__(self):
        super().__init__()
        self.conv, self.lin = GCNConv(8, 8), nn.Linear(8, 8)

    @torch.no_grad()
    def forward(self, x, edge_index):
        return self.lin(self.conv(x, edge_index).relu())


def no_grad(m, x, e):
    with torch.no_grad():
        h = m.a(x, e).relu()
    return m.head(m.b(h, e))


def decorated(m, x, e):
    return m.head(m.sub(m.a(x, e), e).relu() + m.lin(x))


def set_grad_enabled(m, x, e):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    h = m.gat(x, e)
    torch.set_grad_enabled(before or True)
    return m.head(m.a(h, e).relu())


def set_grad_enabled_block(m, x, e):
    with torch.set_grad_enabled(False):
        h = m.a(x, e)
    with torch.set_grad_enabled(True):
        return m.head(m.gat(h, e).relu())


def inference_mode(m, x, e):
    with torch.inference_mode():
        scale = m.lin(x).sigmoid()
    return m.head(m.a(x, e).relu() * scale.clone())


def inside_out(m, x, e):
    with torch.no_grad():
        h = m.a(x, e)
        with torch.enable_grad():
            y = m.lin(h).relu() + m.b(x, e)
        z = m.b(y, e)
    return m.head(torch.cat([y, z], -1)[:, :8] + y + z)


def gradients_in_inference_mode(m, x, e):
    with torch.inference_mode():
        h = m.a(x, e)
        with torch.enable_grad():
            h = m.lin(h) + m.lin(x)
    return m.head(h.clone() + m.b(x, e))


def inference_mode_off(m, x, e):
    with torch.inference_mode(False):
        return m.head(m.b(m.a(x, e), e))


def detached(m, x, e):
    return m.head(m.a(x, e).relu() + m.lin(x).detach() + m.b(x, e).data)


def detached_attention(m, x, e):
    return m.head(m.gat(m.a(x, e).detach(), e) + m.v2(x, e))


def attention_of_frozen(m, x, e):
    with torch.no_grad():
        h = m.v2(m.transformer(x, e), e)
    return m.head(m.transformer(h, e) + m.gat(h, e) + h)


def weight_without_gradient(m, x, e):
    return m.head(F.linear(m.a(x, e).relu(), m.lin.weight.detach(), m.lin.bias) + m.lin(x))


def one_weight_both_ways(m, x, e):
    with torch.no_grad():
        h = m.a(x, e).relu()
    return m.head(h + m.a(x, e).tanh() + m.a(h, e))


def norm_and_sums(m, x, e):
    with torch.no_grad():
        h = m.norm(m.lin(x)) * 2
        h += m.b(x, e)
        h[:, 0] = 1.0
    h = h.relu_()
    return m.head(h + m.a(x, e).relu())


def requires_grad(m, x, e):
    h = m.a(x, e).detach()
    h.requires_grad_(False)
    g = m.lin(x).detach()
    g.requires_grad = False
    return m.head(m.b(h, e) + g)


def several_outputs(m, x, e):
    with torch.no_grad():
        first, second = m.gat(x, e).chunk(2, -1)
    return m.head(torch.cat([second, first.relu()], -1)), first, [second, m.a(x, e)]


def all_without(m, x, e):
    y = m.head(m.lin(x))
    with torch.no_grad():
        return {"y": y, "z": m.head(m.a(x, e).relu())}


def pooled(m, x, e):
    with torch.no_grad():
        whole = global_mean_pool(m.a(x, e), None)
        count = x.size(0)
    return m.head(m.lin(x).relu() * whole.softmax(-1) + 1.0 / count)


def own_contexts(m, x, e):
    with torch.profiler.record_function("layer"), sdpa_kernel(SDPBackend.MATH), torch.autograd.graph.save_on_cpu():
        h = m.a(x, e).relu()
    with torch.autograd.profiler.record_function("head"), torch.autograd.set_detect_anomaly(False):
        return m.head(h)


FORWARDS = [
    no_grad, decorated, set_grad_enabled, set_grad_enabled_block, inference_mode, inside_out,
    gradients_in_inference_mode, inference_mode_off, detached, detached_attention, attention_of_frozen,
    weight_without_gradient, one_weight_both_ways, norm_and_sums, requires_grad, several_outputs, all_without, pooled,
    own_contexts,
]  # fmt: skip
