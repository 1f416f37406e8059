"""Edges: values of both ends, features of their own, messages and attention written out, aggregation."""

from tests.random_models.build import channelled, edges, has_rows, nodes, op, wide


@op(lambda s: s[0] == "N" and has_rows(s), weight=4)
def gather(b, v, shape):
    b.emit(b.choose(["{0}[edge_index[0]]", "{0}.index_select(0, edge_index[1])"]).format(v), ("E", *shape[1:]))


@op(lambda s: s[0] == "E" and has_rows(s), weight=7)
def aggregate(b, v, shape):
    reduce = b.choose(["sum", "mean", "max", "min"])
    b.emit(f"scatter({v}, edge_index[1], 0, dim_size=x.size(0), reduce='{reduce}')", ("N", *shape[1:]))


@op(edges, weight=3)
def aggregation(b, v, shape):
    """Aggregation modules, some of which return more channels than they take."""
    code, times = b.choose([
        ("'sum'", 1), ("'std'", 1), ("'var'", 1), ("'softmax'", 1), ("'powermean'", 1), ("'mul'", 1),
        (f"pyg.SoftmaxAggregation(learn=True, channels={shape[1]})", 1), ("['mean', 'std']", 2),
        ("['sum', 'max', 'min']", 3), ("['mean', 'softmax']", 2),
    ])  # fmt: skip
    kind = code if code.startswith("pyg.Soft") else f"pyg.resolver.aggregation_resolver({code})"
    kind = f"pyg.MultiAggregation({code})" if code.startswith("[") else kind
    b.emit(f"{b.part(kind)}({v}, edge_index[1], dim_size=x.size(0))", ("N", times * shape[1]))


@op(lambda s: nodes(s) and wide(s), weight=2)
def edge_attention(b, v, shape):
    score = b.part(f"nn.Linear({2 * shape[1]}, 1)")
    b.lines.append(f"pair = torch.cat([{v}[edge_index[0]], {v}[edge_index[1]]], -1)")
    b.lines.append(f"share = pyg_softmax(F.leaky_relu({score}(pair)), edge_index[1], num_nodes=x.size(0))")
    b.emit(f"scatter(share * {v}[edge_index[0]], edge_index[1], 0, dim_size=x.size(0), reduce='sum')", shape)


@op(nodes, weight=3)
def head_attention(b, v, shape):
    """Attention with heads by learned vectors or by q k products, messages and all."""
    h, c = b.choose([1, 2, 3]), b.choose([2, 3])
    make = b.part(f"nn.Linear({shape[1]}, {h * c}, bias={b.choose([True, False])})")
    k = len(b.lines)
    b.lines.append(f"h{k} = {make}({v}).view(-1, {h}, {c})")
    form = b.choose(["linear", "late", "product", "joint"])
    ends = f"h{k}[edge_index[0]]", f"h{k}[edge_index[1]]"
    if form == "linear":
        left, right = b.parameter(1, h, c), b.parameter(1, h, c)
        logits = f"(h{k} * {left}).sum(-1)[edge_index[0]] + (h{k} * {right}).sum(-1)[edge_index[1]]"
    elif form == "late":
        logits = f"(F.leaky_relu({ends[0]} + {ends[1]}, 0.2) * {b.parameter(1, h, c)}).sum(-1)"
    elif form == "product":
        query = b.part(f"nn.Linear({shape[1]}, {h * c})")
        logits = f"({query}({v}).view(-1, {h}, {c})[edge_index[1]] * {ends[0]}).sum(-1) / {c} ** 0.5"
    else:
        logits = f"(torch.cat([{ends[0]}, {ends[1]}], -1) * {b.parameter(1, h, 2 * c)}).sum(-1)"
    b.lines.append(f"a{k} = pyg_softmax({logits}, edge_index[1], num_nodes=x.size(0))")
    b.lines.append(
        f"m{k} = scatter({ends[0]} * a{k}.unsqueeze(-1), edge_index[1], 0, dim_size=x.size(0), reduce='sum')"
    )
    b.emit(*b.choose([(f"m{k}.flatten(1)", ("N", h * c)), (f"m{k}.mean(1)", ("N", c)), (f"m{k} + 0", ("N", h, c))]))


@op(nodes, weight=4)
def with_edge_features(b, v, shape):
    """Edge features beside one end or both, in messages or as new edge features."""
    e, (_, width) = b.take(edges)
    out = b.choose([3, 4, 6])
    source, target = f"{v}[edge_index[0]]", f"{v}[edge_index[1]]"
    form = b.choose(["cat", "add", "mul", "update", "residual", "bare"])
    if form in ("cat", "update"):
        mlp = b.part(f"nn.Sequential(nn.Linear({2 * shape[1] + width}, 4), nn.ReLU(), nn.Linear(4, {out}))")
        value = f"{mlp}(torch.cat([{target}, {source}, {e}], dim=-1))"
    elif form == "bare":
        value, out = f"torch.cat([{source}, {e}], -1)", shape[1] + width
    else:
        layer, out = b.part(f"nn.Linear({width}, {shape[1]})"), shape[1]
        sign = "*" if form == "mul" else "+"
        value = f"({source} {sign} {layer}({e})).relu()" + (f" + {target}" if form == "residual" else "")
    if form == "update":
        b.emit(value, ("E", out))
    else:
        reduce = b.choose(["sum", "mean", "max"])
        b.emit(f"scatter({value}, edge_index[1], 0, dim_size=x.size(0), reduce='{reduce}')", ("N", out))


@op(nodes, weight=3)
def own_layer(b, v, shape):
    """Message passing as a class: see messages.py."""
    e, (_, width) = b.take(edges)
    out = b.choose([3, 4])
    code = b.choose([
        f"EdgeMLP({shape[1]}, {width}, {out}, aggr='sum')", f"EdgeMLP({shape[1]}, {width}, {out}, aggr='max')",
        f"EdgeMLP({shape[1]}, {width}, {out}, aggr='softmax')", f"EdgeGate({shape[1]}, {width}, {out})",
        f"EdgeUpdate({shape[1]}, {width}, {out})",
    ])  # fmt: skip
    call = f"{b.part(code)}({v}, edge_index, {e})"
    if not code.startswith("EdgeUpdate"):
        b.emit(call, ("N", out))
        return
    k = len(b.lines)
    b.lines.append(f"n{k}, e{k} = {call}")
    b.values += [(f"e{k}", ("E", out)), (f"n{k}", ("N", out))]


@op(edges, weight=2)
def over_edges(b, v, shape):
    """Softmax over the edges of a node, and edges weighted by it."""
    other = b.take(lambda s: edges(s) and s[1] in (1, shape[1]))
    share = f"pyg_softmax({v}, edge_index[1], num_nodes=x.size(0))"
    b.emit(*b.choose([
        (share, shape),
        (f"{share} * {other[0]}" if other else share, shape),
        (f"scatter({share} * {v}, edge_index[1], 0, dim_size=x.size(0))", ("N", shape[1])),
        (f"{v} * (edge_index[0] != edge_index[1]).to({v}.dtype).view(-1, 1)", shape),
        (f"{v} / scatter({v}.abs(), edge_index[1], 0, dim_size=x.size(0))[edge_index[1]].clamp(min=1)", shape),
    ]))  # fmt: skip


@op(lambda s: s[0] == "N" and has_rows(s) and channelled(s), weight=2)
def propagate(b, v, shape):
    """Sums over neighbours by torch's own functions, and a matrix product with the adjacency."""
    tail = ", ".join(str(size) for size in shape[1:])
    zeros = f"{v}.new_zeros(x.size(0), {tail})"
    options = [
        f"{zeros}.index_add(0, edge_index[1], {v}[edge_index[0]])",
        f"torch.index_add({zeros}, 0, edge_index[1], {v}[edge_index[0]])",
        f"{v} + scatter({v}[edge_index[0]] - {v}[edge_index[1]], edge_index[1], 0, dim_size=x.size(0))",
        f"{zeros}.index_reduce(0, edge_index[1], {v}[edge_index[0]], 'amax', include_self=False)",
    ]
    if len(shape) == 2:
        options.append(f"{zeros}.scatter_add(0, edge_index[1].view(-1, 1).expand(-1, {shape[1]}), {v}[edge_index[0]])")
    b.emit(b.choose(options), shape)
