"""Transformers of graphs: GraphGPS, Graphormer, attention at linear cost, tokens of hops, encodings of positions."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    MLP,
    GCNConv,
    GINConv,
    GPSConv,
    global_mean_pool,
)
from torch_geometric.utils import to_dense_adj, to_dense_batch

from tests.conformance.whole_models.row import Whole

SOURCE = "deep and attentive"
BATCHED = "x edge_index batch"


class GraphTransformer(nn.Module):
    """Dwivedi and Bresson: attention over edges whose scores edge features scale, two norms a layer."""

    class Layer(nn.Module):
        def __init__(self, width=16, heads=4):
            super().__init__()
            self.heads, self.dim = heads, width // heads
            self.Q, self.K, self.V, self.E = (nn.Linear(width, width, bias=False) for _ in range(4))
            self.O, self.norm1, self.norm2 = nn.Linear(width, width), nn.BatchNorm1d(width), nn.BatchNorm1d(width)
            self.ffn1, self.ffn2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, h, e, edge_index):
            src, dst = edge_index
            q, k, v = (lin(h).view(-1, self.heads, self.dim) for lin in (self.Q, self.K, self.V))
            score = k[src] * q[dst] / self.dim**0.5 * self.E(e).view(-1, self.heads, self.dim)
            score = torch.exp(score.sum(-1, keepdim=True).clamp(-5, 5))
            wV = torch.zeros_like(v).index_add_(0, dst, v[src] * score)
            z = torch.zeros_like(v[:, :, :1]).index_add_(0, dst, score)
            out = F.dropout((wV / (z + 1e-6)).view(-1, self.heads * self.dim), 0.1, self.training)
            h = self.norm1(h + self.O(out))
            return self.norm2(h + self.ffn2(F.relu(self.ffn1(h))))

    def __init__(self):
        super().__init__()
        self.embedding_h, self.lap, self.embedding_e = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(3, 16)
        self.layers, self.out = nn.ModuleList(self.Layer() for _ in range(2)), MLP([16, 8, 4], norm=None)

    def forward(self, x, edge_index, edge_attr, pe, batch):
        h, e = self.embedding_h(x) + self.lap(pe), self.embedding_e(edge_attr)
        for layer in self.layers:
            h = layer(h, e, edge_index)
        return self.out(global_mean_pool(h, batch))


class GPSNet(nn.Module):
    def __init__(self, conv, norm="batch_norm", edges=False):
        super().__init__()
        self.lin = nn.Linear(8, 16)
        self.convs = nn.ModuleList(GPSConv(16, conv(), heads=2, norm=norm, act="gelu") for _ in range(2))
        self.out = nn.Linear(16, 4)

    def forward(self, x, edge_index, batch):
        x = self.lin(x)
        for conv in self.convs:
            x = conv(x, edge_index, batch)
        return self.out(x)


class Graphormer(nn.Module):
    """Dense attention per graph with a bias from the adjacency and encodings of degrees."""

    def __init__(self, heads=2, width=16):
        super().__init__()
        self.heads, self.width = heads, width
        self.enter, self.degree = nn.Linear(8, width), nn.Linear(1, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.edge_bias, self.norm = nn.Embedding(2, heads), nn.LayerNorm(width)
        self.ffn, self.head = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)), nn.Linear(width, 3)

    def forward(self, x, edge_index, batch):
        x, mask = to_dense_batch(x, batch)
        adj = (to_dense_adj(edge_index, batch) > 0).long()
        x = self.enter(x) + self.degree(adj.sum(-1, keepdim=True).to(x.dtype))
        B, N, _ = x.shape
        q, k, v = (lin(x).view(B, N, self.heads, -1).transpose(1, 2) for lin in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) / (self.width // self.heads) ** 0.5
        scores = scores + self.edge_bias(adj).permute(0, 3, 1, 2)
        scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        out = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(B, N, self.width)
        x = x + self.o(out)
        x = (x + self.ffn(self.norm(x))) * mask.unsqueeze(-1)
        return self.head(x.sum(dim=1) / mask.sum(dim=1, keepdim=True))


class LinearAttention(nn.Module):
    """SGFormer and NodeFormer: attention of all nodes at linear cost, mixed with a GCN."""

    def __init__(self, width=16):
        super().__init__()
        self.fc, self.Wq, self.Wk, self.Wv = nn.Linear(8, width), *(nn.Linear(width, width) for _ in range(3))
        self.gcn, self.out = GCNConv(8, width), nn.Linear(width, 4)

    def forward(self, x, edge_index):
        h = F.relu(self.fc(x))
        q, k, v = self.Wq(h), self.Wk(h), self.Wv(h)
        q, k = q / torch.norm(q, p=2), k / torch.norm(k, p=2)
        N = q.shape[0]
        num = q @ (k.T @ v) + N * v
        den = (q @ k.sum(dim=0, keepdim=True).T) + N
        return self.out(0.5 * (num / den + h) + 0.5 * F.relu(self.gcn(x, edge_index)))


class NAGphormer(nn.Module):
    """Tokens of a node are its hops; a transformer encodes them, attention reads them out."""

    def __init__(self):
        super().__init__()
        self.att_embeddings_nope = nn.Linear(8, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.attn_layer, self.out = nn.Linear(32, 1), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, batched_data):
        tensor = self.encoder(self.att_embeddings_nope(batched_data))
        target, neighbours = tensor[:, :1], tensor[:, 1:]
        score = self.attn_layer(torch.cat((target.expand_as(neighbours), neighbours), dim=2))
        return self.out((target + (neighbours * torch.softmax(score, dim=1)).sum(1, keepdim=True)).squeeze(1))


class SignNet(nn.Module):
    """Eigenvectors whose sign means nothing: phi(v) + phi(-v), then features beside them."""

    def __init__(self):
        super().__init__()
        self.phi, self.rho = MLP([1, 16, 8], norm=None), MLP([4 * 8, 16, 8], norm=None)
        self.convs = nn.ModuleList([GINConv(MLP([16, 16, 16])), GINConv(MLP([16, 16, 16]))])
        self.lin = nn.Linear(16, 4)

    def forward(self, x, pe, edge_index):
        pe = pe.unsqueeze(-1)
        p = self.rho((self.phi(pe) + self.phi(-pe)).flatten(1))
        h = torch.cat([x, p], dim=-1)
        for conv in self.convs:
            h = F.relu(conv(h, edge_index))
        return self.lin(h)


MODELS = [
    Whole("graph transformer", SOURCE, GraphTransformer, "x edge_index edge_attr pe batch"),
    Whole("GPS GIN", SOURCE, lambda: GPSNet(lambda: GINConv(MLP([16, 16, 16], norm=None))), BATCHED),
    Whole("GPS GCN layer norm", SOURCE, lambda: GPSNet(lambda: GCNConv(16, 16), "layer_norm"), BATCHED),
    Whole("Graphormer", SOURCE, Graphormer, BATCHED),
    Whole("linear attention", SOURCE, LinearAttention),
    Whole("NAGphormer", SOURCE, NAGphormer, "batched_data=tokens"),
    Whole("SignNet", SOURCE, SignNet, "x pe edge_index"),
]
