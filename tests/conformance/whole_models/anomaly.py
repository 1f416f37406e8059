"""Detection of outliers, as in pygod, and contrastive encoders, as in DIG and PyGCL."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    MLP,
    GATConv,
    GCNConv,
    GINConv,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)
from torch_geometric.utils import scatter

from tests.conformance.whole_models.row import Whole

SOURCE = "outliers and contrast"


class DotProductDecoder(nn.Module):
    def __init__(self, inside, width):
        super().__init__()
        self.nn = GCN(inside, width, 1, width, act=F.relu)

    def forward(self, x, edge_index):
        h = self.nn(x, edge_index)
        return h @ h.t()


class DOMINANT(nn.Module):
    """One encoder; attributes and structure are reconstructed from it."""

    def __init__(self):
        super().__init__()
        self.shared_encoder = GCN(8, 16, 2, 16, dropout=0.3, act=F.relu)
        self.attr_decoder, self.struct_decoder = GCN(16, 16, 2, 8, dropout=0.3), DotProductDecoder(16, 16)

    def forward(self, x, edge_index):
        emb = self.shared_encoder(x, edge_index)
        return self.attr_decoder(emb, edge_index), self.struct_decoder(emb, edge_index)


class AnomalyDAE(nn.Module):
    """Attention encodes structure, dense layers the nodes; products decode both."""

    def __init__(self):
        super().__init__()
        self.dense_stru, self.gat_layer = nn.Linear(8, 16), GATConv(16, 16)
        self.attr = MLP([8, 16, 16], norm=None)

    def forward(self, x, edge_index):
        h = F.dropout(F.relu(self.dense_stru(x)), 0.3, self.training)
        h = self.gat_layer(h, edge_index)
        z = F.dropout(self.attr(x), 0.3, self.training)
        return torch.sigmoid(h @ h.T), h @ z.T


class GAAN(nn.Module):
    """A generator from noise, and one encoder of real and generated attributes."""

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = MLP([8, 16, 8], norm=None), MLP([8, 16, 16], norm=None)

    def forward(self, x, noise, edge_index):
        x_ = self.generator(noise)
        z, z_ = self.discriminator(x), self.discriminator(x_)
        a = torch.sigmoid(z @ z.T)[edge_index[0], edge_index[1]]
        return x_, a, torch.sigmoid((z_ * z_).sum(-1))


class GUIDE(nn.Module):
    """Attributes through convolutions, motif counts through attention, in two autoencoders."""

    def __init__(self):
        super().__init__()
        self.attr_encoder, self.attr_decoder = GCN(8, 16, 2, 16), GCN(16, 16, 2, 8)
        self.struct_encoder, self.struct_decoder = GAT(4, 8, 2, 8), GAT(8, 8, 2, 4)

    def forward(self, x, s, edge_index):
        h_x, h_s = self.attr_encoder(x, edge_index), self.struct_encoder(s, edge_index)
        return self.attr_decoder(h_x, edge_index), self.struct_decoder(h_s, edge_index)


class DONE(nn.Module):
    """Two autoencoders and how far each node is from its neighbours in both."""

    def __init__(self):
        super().__init__()
        self.attr_encoder, self.attr_decoder = MLP([8, 16, 8], norm="batch_norm"), MLP([8, 16, 8], norm="batch_norm")
        self.struct_encoder, self.struct_decoder = MLP([8, 16, 8], norm=None), MLP([8, 16, 8], norm=None)

    def far(self, h, edge_index):
        src, dst = edge_index
        return scatter((h[dst] - h[src]).pow(2).sum(-1), dst, dim=0, dim_size=h.size(0), reduce="mean")

    def forward(self, x, s, edge_index):
        h_a, h_s = self.attr_encoder(x), self.struct_encoder(s)
        dna, dns = self.far(h_a, edge_index), self.far(h_s, edge_index)
        return self.attr_decoder(h_a), self.struct_decoder(h_s), dna, dns, (h_a - h_s).pow(2).sum(-1)


class OCGNN(nn.Module):
    """Distances from a fixed centre of embeddings."""

    def __init__(self):
        super().__init__()
        self.gnn = GCN(8, 16, 2, 16, dropout=0.3)
        self.register_buffer("c", torch.zeros(16))

    def forward(self, x, edge_index):
        emb = self.gnn(x, edge_index)
        return torch.sum(torch.pow(emb - self.c, 2), 1)


class CoLA(nn.Module):
    """A node against the mean of its neighbourhood, by a bilinear form."""

    def __init__(self):
        super().__init__()
        self.encoder, self.bilinear = GCN(8, 16, 2, 16, act="prelu"), nn.Bilinear(16, 16, 1)

    def forward(self, x, edge_index):
        h = self.encoder(x, edge_index)
        pooled = scatter(h[edge_index[0]], edge_index[1], dim=0, dim_size=x.size(0), reduce="mean")
        pos = self.bilinear(h, pooled)
        return pos, self.bilinear(h, pooled.flip(0))


class GADNR(nn.Module):
    """The mean and spread of neighbours are predicted from the node."""

    def __init__(self):
        super().__init__()
        self.lin, self.gnn = nn.Linear(8, 16), GCN(16, 16, 1, 16)
        self.degree, self.mean, self.log_std = MLP([16, 16, 1], norm=None), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x, edge_index):
        h0 = self.lin(x)
        h1 = self.gnn(h0, edge_index)
        src, dst = edge_index
        mean = scatter(h0[src], dst, dim=0, dim_size=x.size(0), reduce="mean")
        var = scatter((h0[src] - mean[dst]).pow(2), dst, dim=0, dim_size=x.size(0), reduce="mean")
        kl = (self.mean(h1) - mean).pow(2) / (var + 1) + self.log_std(h1).exp()
        return self.degree(h1).relu(), kl.sum(-1)


class GRACE(nn.Module):
    """Two views through one encoder and a projection head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 32), GCNConv(32, 16)
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)

    def embed(self, x, edge_index):
        return F.relu(self.conv2(F.relu(self.conv1(x, edge_index)), edge_index))

    def forward(self, x1, edge_index1, x2, edge_index2):
        h1, h2 = self.embed(x1, edge_index1), self.embed(x2, edge_index2)
        z1, z2 = self.fc2(F.elu(self.fc1(h1))), self.fc2(F.elu(self.fc1(h2)))
        return torch.mm(F.normalize(z1), F.normalize(z2).t())


class BGRL(nn.Module):
    """An online encoder with a predictor, and a target that gets no gradients."""

    def __init__(self):
        super().__init__()
        self.online, self.target = self.encoder(), self.encoder()
        self.predictor = nn.Sequential(nn.Linear(16, 32), nn.PReLU(1), nn.Linear(32, 16))

    @staticmethod
    def encoder():
        return nn.ModuleList([GCNConv(8, 16), nn.BatchNorm1d(16, momentum=0.01), nn.PReLU(), GCNConv(16, 16)])

    def encode(self, layers, x, edge_index):
        conv1, norm, act, conv2 = layers
        return conv2(act(norm(conv1(x, edge_index))), edge_index)

    def forward(self, x, edge_index):
        pred = self.predictor(self.encode(self.online, x, edge_index))
        return F.cosine_similarity(pred, self.encode(self.target, x, edge_index).detach(), dim=-1)


class GraphCL(nn.Module):
    """DIG's encoder for graphs: GIN with norms, all layers read out, a projection."""

    def __init__(self):
        super().__init__()
        self.convs, self.bns = nn.ModuleList(), nn.ModuleList()
        for i in range(3):
            mlp = nn.Sequential(nn.Linear(16 if i else 8, 16), nn.ReLU(), nn.Linear(16, 16))
            self.convs.append(GINConv(mlp))
            self.bns.append(nn.BatchNorm1d(16))
        self.proj_head = nn.Sequential(nn.Linear(48, 48), nn.ReLU(inplace=True), nn.Linear(48, 16))

    def forward(self, x, edge_index, batch):
        xs = []
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = bn(F.relu(conv(x, edge_index)))
            xs.append(x)
        return self.proj_head(torch.cat([global_add_pool(h, batch) for h in xs], 1))


class GraphMAE(nn.Module):
    """Masked rows become a token, are encoded, re-masked, and decoded."""

    def __init__(self):
        super().__init__()
        self.enc_mask_token = nn.Parameter(torch.zeros(1, 8))
        self.encoder, self.to_dec, self.decoder = (
            GAT(8, 8, 2, 16, heads=2),
            nn.Linear(16, 16, bias=False),
            GCNConv(16, 8),
        )

    def forward(self, x, edge_index, masked):
        h = torch.where(masked.unsqueeze(1), self.enc_mask_token, x)
        h = self.to_dec(self.encoder(h, edge_index))
        h = h.masked_fill(masked.unsqueeze(1), 0.0)
        return self.decoder(h, edge_index)


class GraphNorms(nn.Module):
    """DIG's explained networks: three layers of one kind, a readout, two linear layers."""

    def __init__(self, kind="gcn"):
        super().__init__()
        self.gnn = {"gcn": GCN, "gin": GIN, "gat": GAT}[kind](8, 16, 3)
        self.ffn = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))

    def forward(self, x, edge_index, batch=None):
        post_conv = F.relu(self.gnn(x, edge_index))
        return self.ffn(global_mean_pool(post_conv, batch))


class GSAT(nn.Module):
    """A learned mask over edges between two passes of the same encoder."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(8, 16), GCNConv(16, 16)
        self.extractor, self.fc_out = MLP([32, 16, 1], norm=None), nn.Linear(16, 2)

    def emb(self, x, edge_index, edge_weight=None):
        x = self.conv1(x, edge_index, edge_weight).relu()
        return self.conv2(x, edge_index, edge_weight).relu()

    def forward(self, x, edge_index, batch):
        h = self.emb(x, edge_index)
        col, row = edge_index
        att = torch.sigmoid(self.extractor(torch.cat([h[col], h[row]], dim=-1))).squeeze(-1)
        return self.fc_out(global_max_pool(self.emb(x, edge_index, att), batch)), att


BATCHED = "x edge_index batch"
MODELS = [
    Whole("DOMINANT", SOURCE, DOMINANT),
    Whole("AnomalyDAE", SOURCE, AnomalyDAE),
    Whole("GAAN", SOURCE, GAAN, "x noise=x edge_index"),
    Whole("GUIDE", SOURCE, GUIDE, "x s=pe edge_index"),
    Whole("DONE", SOURCE, DONE, "x s=x edge_index"),
    Whole("OCGNN", SOURCE, OCGNN),
    Whole("CoLA", SOURCE, CoLA),
    Whole("GAD-NR", SOURCE, GADNR),
    Whole("GRACE", SOURCE, GRACE, "x1=x edge_index1=edge_index x2=x edge_index2=sorted_edges"),
    Whole("BGRL", SOURCE, BGRL),
    Whole("GraphCL", SOURCE, GraphCL, BATCHED),
    Whole("GraphMAE", SOURCE, GraphMAE, "x edge_index masked=node_mask"),
    *(Whole(f"DIG {kind}", SOURCE, lambda kind=kind: GraphNorms(kind), BATCHED) for kind in ("gcn", "gin", "gat")),
    Whole("GSAT", SOURCE, GSAT, BATCHED),
]
