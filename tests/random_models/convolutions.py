"""PyG's layers, called once or, where they return as many channels as they take, again; bipartite calls."""

from tests.random_models.build import SHARED_BATCH_NORMS, nodes, op

PLAIN = "{0}({1}, edge_index)"
WEIGHTED = "{0}({1}, edge_index, edge_attr[:, 0].abs())"
EDGES = "{0}({1}, edge_index, edge_attr)"
TYPED = "{0}({1}, edge_index, edge_type)"
SIMPLE = [
    ("GCNConv({c}, {o})", PLAIN), ("GCNConv({c}, {o}, bias=False)", WEIGHTED), ("SAGEConv({c}, {o})", PLAIN),
    ("SAGEConv({c}, {o}, aggr='max', project=True)", PLAIN), ("SAGEConv({c}, {o}, aggr=['mean', 'std'])", PLAIN),
    ("SAGEConv({c}, {o}, aggr='sum', normalize=True)", PLAIN), ("SAGEConv({c}, {o}, root_weight=False)", PLAIN),
    ("GATConv({c}, {o}, heads={h}, concat=False, edge_dim=3)", EDGES),
    ("GATv2Conv({c}, {o}, heads={h}, share_weights=True, concat=False)", PLAIN),
    ("TransformerConv({c}, {o}, heads={h}, concat=False, bias=False)", PLAIN),
    ("GINConv(nn.Sequential(nn.Linear({c}, {w}), nn.ReLU(), nn.Linear({w}, {o})), train_eps=True)", PLAIN),
    ("GINEConv(nn.Sequential(nn.Linear({c}, {w}), nn.ReLU(), nn.Linear({w}, {o})), edge_dim=3)", EDGES),
    ("PNAConv({c}, {o}, ['mean', 'max', 'min', 'sum'], ['identity', 'linear'], torch.tensor([1, 3, 2]))", PLAIN),
    ("GraphConv({c}, {o})", WEIGHTED), ("GraphConv({c}, {o}, aggr='max')", PLAIN), ("LEConv({c}, {o})", PLAIN),
    ("EdgeConv(nn.Sequential(nn.Linear(2 * {c}, {w}), nn.ReLU(), nn.Linear({w}, {o})))", PLAIN),
    ("RGCNConv({c}, {o}, 3)", TYPED), ("RGCNConv({c}, {o}, 3, num_bases=2)", TYPED),
    ("FastRGCNConv({c}, {o}, 3)", TYPED), ("RGATConv({c}, {o}, 3)", TYPED), ("FiLMConv({c}, {o}, 3)", TYPED),
    ("NNConv({c}, {o}, nn.Linear(3, {c} * {o}))", EDGES), ("ResGatedGraphConv({c}, {o})", PLAIN),
    ("ResGatedGraphConv({c}, {o}, edge_dim=3)", EDGES), ("ChebConv({c}, {o}, K=2)", PLAIN),
    ("TAGConv({c}, {o}, K=2)", PLAIN),
    ("SGConv({c}, {o}, K=2)", PLAIN), ("ARMAConv({c}, {o}, num_stacks=2)", PLAIN), ("ClusterGCNConv({c}, {o})", PLAIN),
    ("GENConv({c}, {o}, edge_dim=3)", EDGES), ("GENConv({c}, {o}, aggr='softmax', learn_t=True)", PLAIN),
    ("GeneralConv({c}, {o}, in_edge_channels=3, attention=True, heads={h})", EDGES),
    ("MFConv({c}, {o}, max_degree=2)", PLAIN),
    ("SSGConv({c}, {o}, alpha=0.2, K=2)", PLAIN), ("FeaStConv({c}, {o}, heads={h})", PLAIN),
    ("EGConv({c}, {h} * 2, num_heads={h}, num_bases=2)", PLAIN), ("MixHopConv({c}, {o}, powers=[0, 1])", PLAIN),
]  # fmt: skip
#: How many times {o} the ones return that do not return {o}.
WIDER = [
    ("GATConv({c}, {o}, heads={h})", PLAIN), ("GATConv({c}, {o}, heads={h}, residual=True)", PLAIN),
    ("GATv2Conv({c}, {o}, heads={h})", PLAIN), ("GATv2Conv({c}, {o}, heads={h}, edge_dim=3, residual=True)", EDGES),
    ("TransformerConv({c}, {o}, heads={h})", PLAIN),
    ("TransformerConv({c}, {o}, heads={h}, beta=True, edge_dim=3)", EDGES),
]  # fmt: skip
SAME = [
    ("SimpleConv()", PLAIN), ("APPNP(K=2, alpha=0.1)", PLAIN), ("GatedGraphConv({c}, num_layers=2)", PLAIN),
    ("CGConv({c}, dim=3)", EDGES), ("CGConv({c})", PLAIN), ("LGConv()", PLAIN),
    ("FAConv({c})", "{0}({1}, {1}, edge_index)"),
    ("GCN2Conv({c}, alpha=0.2, theta=0.5, layer=2)", "{0}({1}, {1}.relu(), edge_index)"),
    ("AntiSymmetricConv({c})", PLAIN),
    ("GPSConv({c}, SAGE, heads=1)", "{0}({1}, edge_index, batch)"),
    ("SimpleConv(aggr='max', combine_root='self_loop')", PLAIN),
]  # fmt: skip


@op(nodes, weight=14)
def conv(b, v, shape):
    c, o, h = shape[1], b.width(), b.choose([2, 1, 3])
    family = b.choose([SIMPLE, SIMPLE, WIDER, SAME])
    code, call = b.choose(family)
    width = c if family is SAME else o * h if family is WIDER else o
    if code.startswith("EGConv"):
        width = h * 2
    elif code.startswith("MixHop"):
        width = o * 2
    name = b.part(f"pyg.{code.format(c=c, o=o, h=h, w=h * 2)}".replace("SAGE,", f"pyg.SAGEConv({c}, {c}),"))
    if SHARED_BATCH_NORMS or not code.startswith(("GENConv", "GPSConv")):  # these have batch norms inside
        b.again.append((call.replace("{0}", name).replace("{1}", "{0}"), c, width))
    b.emit(call.format(name, v), ("N", width))


@op(nodes, weight=3)
def same_conv(b, v, shape):
    """A convolution of an earlier layer, on something else."""
    known = [call for call in b.again if call[1] == shape[1]]
    if known:
        call, _, width = b.choose(known)
        b.emit(call.format(v), ("N", width))


@op(nodes, weight=3)
def bipartite(b, v, shape):
    """Sources and targets with features of their own; both happen to be the same nodes."""
    other = b.take(nodes)
    c, d, o, h = shape[1], other[1][1], b.width(), b.choose([1, 2])
    code, width = b.choose([
        (f"SAGEConv(({c}, {d}), {o})", o), (f"GraphConv(({c}, {d}), {o})", o),
        (f"GATConv(({c}, {d}), {o}, heads={h}, add_self_loops=False)", o * h),
        (f"GATv2Conv(({c}, {d}), {o}, heads={h}, add_self_loops=False)", o * h),
        (f"TransformerConv(({c}, {d}), {o}, heads={h})", o * h), (f"ResGatedGraphConv(({c}, {d}), {o})", o),
    ])  # fmt: skip
    b.emit(f"{b.part(f'pyg.{code}')}(({v}, {other[0]}), edge_index)", ("N", width))


@op(nodes, weight=2)
def whole_model(b, v, shape):
    """A model of several layers, jumping knowledge and norms included."""
    c, o = shape[1], b.width()
    kind = b.choose(["GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN"])
    jk, norm = b.choose(["None", "'cat'", "'max'", "'last'"]), b.choose(["None", "'batch_norm'", "'graph_norm'"])
    heads = ", heads=2" if kind == "GAT" else ""
    b.emit(f"{b.part(f'pyg.{kind}({c}, 4, 2, {o}, jk={jk}, norm={norm}{heads})')}({v}, edge_index)", ("N", o))
