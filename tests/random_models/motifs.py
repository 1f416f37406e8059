"""Motifs of several lines: attention over all nodes, experts, memories, weights that are computed, vectors in space."""

from tests.random_models.build import RELATIONS, edges, flat, nodes, op, wide

ADJACENCY = (
    "x.new_zeros(x.size(0), x.size(0)).index_put((edge_index[1], edge_index[0]), "
    "edge_attr[:, 0].abs(), accumulate=True)"
)


@op(nodes, weight=3)
def attention_over_all(b, v, shape):
    """Attention of every node to every other, softmax or linear."""
    c, d, o = shape[1], b.choose([2, 3]), b.choose([2, 4])
    query, key = b.linear(c, d), b.linear(c, d)
    value = b.linear(c, o)
    form = b.choose([
        "torch.softmax({0}({3}) @ {1}({3}).t(), -1) @ {2}({3})", "{0}({3}).relu() @ ({1}({3}).relu().t() @ {2}({3}))",
        "torch.einsum('nd,do->no', {0}({3}), torch.einsum('md,mo->do', {1}({3}).sigmoid(), {2}({3})))",
        "torch.softmax(torch.einsum('nd,md->nm', {0}({3}), {1}({3})), 1) @ {2}({3})",
        "F.scaled_dot_product_attention({0}({3})[None], {1}({3})[None], {2}({3})[None])[0]",
    ])  # fmt: skip
    b.emit(form.format(query, key, value, v), ("N", o))


@op(flat, weight=3)
def experts(b, v, shape):
    """Several layers mixed by a softmax, and a memory that is read by one."""
    c, o = shape[1], b.choose([2, 4])
    rows = shape[0]
    each = [b.linear(c, o) for _ in range(3)]
    gate = b.linear(c, 3)
    b.emit(*b.choose([
        (f"torch.stack([{', '.join(f'{e}({v}).relu()' for e in each)}], -1)"
         f".mul({gate}({v}).softmax(-1).unsqueeze(1)).sum(-1)", (rows, o)),
        (f"sum(g.unsqueeze(-1) * z for g, z in zip({gate}({v}).softmax(-1).unbind(-1), "
         f"[{', '.join(f'{e}({v})' for e in each)}]))", (rows, o)),
        (f"torch.einsum('nk,nko->no', {gate}({v}).softmax(-1), torch.einsum('ni,kio->nko', {v}, "
         f"{b.parameter(3, c, o)}))", (rows, o)),
        (f"torch.softmax({v} @ {b.parameter(4, c)}.t(), -1) @ {b.parameter(4, o)}", (rows, o)),
        (f"({v}.unsqueeze(1) - {b.parameter(3, c)}).square().sum(-1)", (rows, 3)),
        (f"torch.cdist({v}, {b.parameter(3, c)})", (rows, 3)),
    ]))  # fmt: skip


@op(flat, weight=2)
def computed_weights(b, v, shape):
    """Weights that a layer makes: of the mean of all rows, or of edge features for every row."""
    c, o = shape[1], b.choose([2, 3])
    whole, of_edge = b.linear(c, c * o), b.linear(3, c * o)
    k = len(b.lines)
    b.lines.append(f"w{k} = {whole}({v}.sum(0)).tanh()")
    options = [
        (f"{v} @ w{k}.view({c}, {o})", (shape[0], o)),
        (f"F.linear({v}, w{k}.view({o}, {c}))", (shape[0], o)),
    ]
    if shape[0] in "NE":
        row = f"{v}[edge_index[0]]" if shape[0] == "N" else v
        options += [
            (f"({row}.unsqueeze(1) @ {of_edge}(edge_attr).view(-1, {c}, {o})).squeeze(1)", ("E", o)),
            (f"torch.einsum('ei,eio->eo', {row}, {of_edge}(edge_attr).view(-1, {c}, {o}))", ("E", o)),
        ]
    b.emit(*b.choose(options))


@op(nodes, weight=2)
def adjacency(b, v, shape):
    """Products with an adjacency matrix."""
    b.emit(b.choose([
        f"{ADJACENCY} @ {v}", f"{v} + ({ADJACENCY}).softmax(-1) @ {v}",
        f"torch.sparse.mm(torch.sparse_coo_tensor(edge_index.flip(0), edge_attr[:, 0], (x.size(0), x.size(0))), {v})",
        f"({ADJACENCY}).t().matmul({v})",
    ]), shape)  # fmt: skip


@op(edges, weight=2)
def written_rows(b, v, shape):
    """Rows of a type written into a result, or added to it."""
    c, o, k = shape[1], b.choose([2, 3]), len(b.lines)
    layers = b.part(f"nn.ModuleList([nn.Linear({c}, {o}) for _ in range({RELATIONS})])")
    b.lines.append(f"o{k} = {v}.new_zeros({v}.size(0), {o})")
    b.lines.append(f"for r in range({RELATIONS}):")
    b.lines.append("    " + b.choose([
        f"o{k}[edge_type == r] = {layers}[r]({v}[edge_type == r])",
        f"o{k} = o{k}.index_add(0, (edge_type == r).nonzero().view(-1), {layers}[r]({v}[edge_type == r]))",
        f"o{k} = torch.where((edge_type == r).unsqueeze(-1), {layers}[r]({v}), o{k})",
    ]))  # fmt: skip
    b.emit(f"o{k}.relu()", ("E", o))


@op(lambda s: flat(s) and wide(s), weight=2)
def written_columns(b, v, shape):
    """Columns written into zeros or into a copy, and columns added up by a constant index."""
    c, k = shape[1], len(b.lines)
    cut = b.choose(range(1, c))
    other = b.linear(c, cut)
    start = b.choose(["torch.zeros_like({0})", "{0}.clone()", "torch.ones_like({0})"])
    b.lines.append(f"z{k} = {start.format(v)}")
    b.lines.append(f"z{k}[:, :{cut}] = {b.choose([f'{other}({v})', f'{v}[:, -{cut}:]', '0.5'])}")
    index = b.part(f"torch.arange({c}) % 2")
    b.emit(*b.choose([
        (f"z{k} + {v}", shape), (f"z{k}.tanh()", shape),
        (f"z{k}.new_zeros({v}.size(0), 2).index_add(1, {index}, z{k})", (shape[0], 2)),
        (f"scatter(z{k}, {index}, 1, dim_size=2)", (shape[0], 2)),
    ]))  # fmt: skip


@op(lambda s: flat(s) and s[1] in (4, 6, 8), weight=3)
def regrouped(b, v, shape):
    """Pieces of a row that are rows of their own for a while, and rows that are there twice."""
    half, o = shape[1] // 2, b.choose([2, 3])
    layer, norm = b.linear(half, o), b.part(f"nn.BatchNorm1d({half})")
    whole = b.linear(shape[1], o)
    b.emit(*b.choose([
        (f"{layer}({v}.reshape(-1, {half})).relu().view(-1, {2 * o})", (shape[0], 2 * o)),
        (f"{norm}({v}.reshape(-1, {half})).view(-1, 2, {half})", (shape[0], 2, half)),
        (f"{whole}({v}.repeat(2, 1)).view(2, -1, {o}).sum(0)", (shape[0], o)),
        (f"{whole}({v}.repeat_interleave(2, 0)).view(-1, 2, {o}).amax(1)", (shape[0], o)),
        (f"{whole}(torch.cat([{v}, -{v}], 0)).chunk(2, 0)[0]", (shape[0], o)),
    ]))  # fmt: skip


@op(nodes, weight=2)
def in_space(b, v, shape):
    """Distances between the ends of edges, and vectors with three components of every channel."""
    c, k = shape[1], len(b.lines)
    filters = b.linear(c, 2 * c)
    b.lines.append(f"f{k}, g{k} = {filters}({v})[edge_index[0]].chunk(2, -1)")
    b.lines.append(f"r{k} = x[edge_index[0], :3] - x[edge_index[1], :3]")
    vectors = f"scatter(f{k}.unsqueeze(1) * r{k}.unsqueeze(-1), edge_index[1], 0, dim_size=x.size(0))"
    b.emit(*b.choose([
        (f"({vectors}).norm(dim=1)", shape),
        (f"(({vectors}) * {b.linear(c, c, 'nn.Linear({0}, {1}, bias=False)')}({vectors})).sum(1)", shape),
        (vectors, ("N", 3, c)),
        (f"scatter(g{k} * torch.exp(-r{k}.square().sum(-1, keepdim=True)), edge_index[1], 0, dim_size=x.size(0))",
         shape),
        (f"F.cosine_similarity({v}[edge_index[0]], {v}[edge_index[1]], dim=-1).unsqueeze(-1) * f{k}", ("E", c)),
    ]))  # fmt: skip


@op(flat)
def reparametrised(b, v, shape):
    """Layers whose weight is computed when it is read, or has a mask."""
    o = b.width()
    code = b.choose([
        "torch.nn.utils.parametrizations.weight_norm(nn.Linear({0}, {1}))",
        "torch.nn.utils.parametrizations.spectral_norm(nn.Linear({0}, {1}))",
        "torch.nn.utils.prune.random_unstructured(nn.Linear({0}, {1}), 'weight', 0.3)",
        "torch.nn.utils.prune.ln_structured(nn.Linear({0}, {1}), 'weight', 0.5, n=2, dim=0)",
        "torch.nn.utils.prune.ln_structured(nn.Linear({0}, {1}), 'weight', 0.5, n=2, dim=1)",
    ])  # fmt: skip
    b.emit(f"{b.part(code.format(shape[1], o))}({v})", (shape[0], o))
