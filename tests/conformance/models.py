"""Models of torch_geometric.nn.models and attention blocks.

Left out because they do not run without further libraries: DimeNet, DimeNet++, GNNFF, ViSNet (radius graphs),
PANPooling (SparseTensor), Node2Vec and MetaPath2Vec (random walks); because they take other things than tensors: RENet
(a Data object of histories), LPFormer (a sparse matrix), TGNMemory (a store of messages).
"""

import torch
import torch_geometric.nn as gnn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import attention, models
from torch_geometric.nn.models.gpse import IdentityHead

from tests.conformance.case import EDGE, Case
from tests.conformance.small import Between

GRAPH, BATCHED, FULL = "x edge_index", "x edge_index batch", "x edge_index edge_attr batch"
DENSE, MASKED = "x=dense_x", "x=dense_x mask=dense_mask"
SIGNED = "x pos_edge_index=edge_index neg_edge_index=edge_index"


class EdgeModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * 8 + EDGE + 4, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, src, dst, edge_attr, u, batch):
        return self.mlp(torch.cat([src, dst, edge_attr, u[batch]], dim=1))


class NodeModel(nn.Module):
    def __init__(self, edge=5):
        super().__init__()
        self.mlp_1 = nn.Sequential(nn.Linear(8 + edge, 8), nn.ReLU(), nn.Linear(8, 8))
        self.mlp_2 = nn.Sequential(nn.Linear(16 + 4, 8), nn.ReLU(), nn.Linear(8, 7))

    def forward(self, x, edge_index, edge_attr, u, batch):
        out = self.mlp_1(torch.cat([x[edge_index[0]], edge_attr], dim=1))
        out = gnn.aggr.MeanAggregation()(out, edge_index[1], dim_size=x.size(0))
        return self.mlp_2(torch.cat([x, out, u[batch]], dim=1))


class GlobalModel(nn.Module):
    def __init__(self, width=7):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4 + width, 8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, x, edge_index, edge_attr, u, batch):
        return self.mlp(torch.cat([u, gnn.global_mean_pool(x, batch)], dim=1))


class Variational(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = gnn.GCNConv(8, 8)
        self.mu, self.logstd = gnn.GCNConv(8, 6), gnn.GCNConv(8, 6)

    def forward(self, x, edge_index):
        x = self.conv(x, edge_index).relu()
        return self.mu(x, edge_index), self.logstd(x, edge_index)


class Autoencoder(nn.Module):
    """Encode, then decode given edges: what GAE and VGAE are used for."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, edge_index):
        return self.model.decode(self.model.encode(x, edge_index), edge_index, sigmoid=True)


class Encoder(nn.Module):
    """GPSE on a graph given as tensors; its encoder's input is noise."""

    def __init__(self, head=None, **options):
        super().__init__()
        self.model = models.GPSE(
            8, 6, 8, layers_mp=2, num_node_targets=2, num_graph_targets=3, multi_head_dim_inner=5, **options
        )
        self.model.post_mp = head or self.model.post_mp

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor):
        return self.model(Data(x=x, edge_index=edge_index, batch=batch, y=x[:, :2], y_graph=x.new_zeros(1, 3)))


class Ring(nn.Module):
    """Every atom interacts with the next one: an interaction graph that needs no search."""

    def forward(self, pos, batch):
        source = torch.arange(pos.size(0), device=pos.device)
        target = (source + 1) % pos.size(0)
        return torch.stack([source, target]), (pos[source] - pos[target]).norm(dim=-1)


def summarise(z, *args, **kwargs):
    return torch.sigmoid(z.mean(dim=0))


def reverse(x, edge_index):
    return x.flip(0), edge_index


def infomax():
    return models.DeepGraphInfomax(8, gnn.GCN(8, 8, 2), summarise, reverse)


def schnet(how, call="z=node_type pos batch", **options):
    return Case("SchNet", how, lambda: models.SchNet(8, 8, 2, 6, interaction_graph=Ring(), **options), call)


def meta(g):
    return {"x": g.x, "edge_index": g.edge_index, "edge_attr": g.edge_attr, "u": g.features(g.graphs, 4),
            "batch": g.batch}  # fmt: skip


def by_position(g):
    return g.x, g.edge_index


def corrected(g, labels):
    chosen = torch.arange(0, g.nodes, 2)
    return (g.positive(g.nodes, 3), labels(g)[chosen], chosen, g.edge_index)


def polynormer(global_=False, **options):
    model = models.Polynormer(8, 8, 6, local_layers=2, global_layers=1, **options)
    model._global = global_
    return model


CASES = [
    Case("MetaLayer", "all", lambda: models.MetaLayer(EdgeModel(), NodeModel(), GlobalModel()), meta),
    Case("MetaLayer", "nodes", lambda: models.MetaLayer(None, NodeModel(EDGE)), meta),
    Case("MetaLayer", "edges and graph", lambda: models.MetaLayer(EdgeModel(), None, GlobalModel(8)), meta),
    Case("InnerProductDecoder", "plain", models.InnerProductDecoder, "z=x edge_index", "nothing"),
    Case("GAE", "encoder", lambda: models.GAE(gnn.GCN(8, 8, 2, 6)), by_position),
    Case("GAE", "decode", lambda: Autoencoder(models.GAE(gnn.GCN(8, 8, 2, 6))), GRAPH),
    Case("VGAE", "encoder", lambda: models.VGAE(Variational()), by_position),
    Case("VGAE", "decode", lambda: Autoencoder(models.VGAE(Variational())), GRAPH),
    Case("ARGVA", "decode", lambda: Autoencoder(models.ARGVA(Variational(), nn.Linear(6, 1))), GRAPH),
    Case("DeepGraphInfomax", "plain", infomax, by_position),
    Case("SignedGCN", "plain", lambda: models.SignedGCN(8, 8, 2), SIGNED),
    Case("SignedGCN", "one layer", lambda: models.SignedGCN(8, 8, 1, lamb=2), SIGNED),
    Case("GraphUNet", "plain", lambda: models.GraphUNet(8, 8, 6, 2), GRAPH),
    Case("GraphUNet", "batch", lambda: models.GraphUNet(8, 8, 6, 2, [0.8, 0.5], sum_res=False), BATCHED),
    Case("GraphUNet", "edge_weight", lambda: models.GraphUNet(8, 8, 6, 1, act="elu"), f"{BATCHED} edge_weight"),
    schnet("plain"),
    schnet("without batch", "z=node_type pos"),
    schnet("readout", readout="mean", mean=0.5, std=2.0),
    schnet("atomref", atomref=torch.linspace(0, 1, 100)[:, None]),
    Case("GPSE", "graph head", lambda: Encoder(virtual_node=False), BATCHED),
    Case("GPSE", "representation", lambda: Encoder(IdentityHead(), stage_type="skipconcat"), BATCHED),
    Case("GPSENodeEncoder", "mlp", lambda: models.GPSENodeEncoder(8, 8, 5), "x pos_enc=x"),
    Case("GPSENodeEncoder", "linear", lambda: models.GPSENodeEncoder(
        12, 8, 5, 8, expand_x=True, norm_type=None, model_type="linear"), "x pos_enc=x"),
    Case("LabelPropagation", "mask", lambda: models.LabelPropagation(2, 0.9), "y=x edge_index mask=node_mask",
         "nothing"),
    Case("LabelPropagation", "edge_weight", lambda: models.LabelPropagation(2, 0.5), "y=x edge_index edge_weight",
         "nothing"),
    Case("CorrectAndSmooth", "scale", lambda: models.CorrectAndSmooth(2, 0.9, 2, 0.8, False, 2.0),
         lambda g: corrected(g, lambda g: g.positive(g.nodes, 3)), "nothing"),
    Case("AttentiveFP", "plain", lambda: models.AttentiveFP(8, 8, 6, EDGE, 2, 2), FULL),
    Case("AttentiveFP", "one layer", lambda: models.AttentiveFP(8, 8, 6, EDGE, 1, 1, dropout=0.5), FULL),
    Case("RECT_L", "plain", lambda: models.RECT_L(8, 8), GRAPH),
    Case("RECT_L", "edge_weight", lambda: models.RECT_L(8, 8, normalize=False), "x edge_index edge_weight"),
    Case("LINKX", "plain", lambda: models.LINKX(40, 8, 8, 6, 2),
         lambda g: {"x": g.features(40, 8), "edge_index": torch.randint(40, (2, g.edges), generator=g.draw)}),
    Case("LINKX", "layers", lambda: models.LINKX(40, 8, 8, 6, 2, 2, 2),
         lambda g: {"x": g.features(40, 8), "edge_index": torch.randint(40, (2, g.edges), generator=g.draw),
                    "edge_weight": g.edge_weight}),
    Case("LightGCN", "plain", lambda: models.LightGCN(40, 8, 2), "edge_index"),
    Case("LightGCN", "edge_label_index", lambda: models.LightGCN(40, 8, 2, alpha=0.3, normalize=False),
         "edge_index edge_label_index=edge_index edge_weight"),
    Case("MaskLabel", "add", lambda: models.MaskLabel(3, 8), "x y=node_type mask=node_mask", "nothing"),
    Case("MaskLabel", "concat", lambda: models.MaskLabel(3, 5, "concat"), "x y=node_type mask=node_mask", "nothing"),
    Case("PMLP", "plain", lambda: models.PMLP(8, 8, 6, 3), GRAPH),
    Case("PMLP", "norm False", lambda: models.PMLP(8, 8, 6, 2, norm=False, bias=False), GRAPH),
    Case("NeuralFingerprint", "plain", lambda: models.NeuralFingerprint(8, 8, 6, 2), GRAPH),
    Case("NeuralFingerprint", "batch", lambda: models.NeuralFingerprint(8, 8, 6, 2, max_degree=4),
         f"{BATCHED} batch_size"),
    Case("SGFormer", "plain", lambda: models.SGFormer(8, 8, 6), BATCHED, dtype=torch.float32),
    Case("SGFormer", "cat", lambda: models.SGFormer(8, 8, 6, 1, 2, gnn_num_layers=2, aggregate="cat"), BATCHED,
         dtype=torch.float32),
    Case("Polynormer", "local", polynormer, BATCHED),
    Case("Polynormer", "local attention", lambda: polynormer(heads=2, local_attn=True, pre_ln=True), BATCHED),
    Case("Polynormer", "global", lambda: polynormer(True), BATCHED),
    Case("Polynormer", "global qk_shared", lambda: polynormer(True, qk_shared=True, post_bn=False), BATCHED),
    Case("ARLinkPredictor", "plain", lambda: models.ARLinkPredictor(8, 8), GRAPH),
    Case("ARLinkPredictor", "out_channels", lambda: models.ARLinkPredictor(8, 8, 10, 3, attract_ratio=0.3), GRAPH),
    Case("PerformerAttention", "plain", lambda: attention.PerformerAttention(8, 2, 4), DENSE),
    Case("PerformerAttention", "mask", lambda: attention.PerformerAttention(8, 2, 4, nn.ELU(), True, False), MASKED),
    Case("QFormer", "plain", lambda: attention.QFormer(8, 8, 6, 2, 2), DENSE),
    Case("SGFormerAttention", "plain", lambda: attention.SGFormerAttention(8, 2, 4), DENSE, dtype=torch.float32),
    Case("SGFormerAttention", "mask", lambda: attention.SGFormerAttention(8, 1, 4, qkv_bias=True), MASKED,
         dtype=torch.float32),
    Case("PolynormerAttention", "plain", lambda: attention.PolynormerAttention(8, 2, 4), DENSE),
    Case("PolynormerAttention", "mask", lambda: attention.PolynormerAttention(8, 1, 4, 0.5, True, False), MASKED),
    Case("PerformerAttention", "between", lambda: Between(attention.PerformerAttention(8, 2, 4)), DENSE),
]  # fmt: skip
