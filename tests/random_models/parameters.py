"""Raw parameters: as weights of products in every form, as values of their own, and as tables that are looked up."""

from tests.random_models.build import RELATIONS, edges, flat, nodes, op

KIND = "(x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()"


@op(flat, weight=6)
def product(b, v, shape):
    """A matrix product with one or two parameters."""
    i, o, r = shape[1], b.width(), b.choose([2, 3])
    k = b.choose(range(1, o + 1))
    new = b.parameter
    b.emit(*b.choose([
        (f"{v} @ {new(i, o)}", (shape[0], o)),
        (f"{v}.matmul({new(i, o)}) + {new(o)}", (shape[0], o)),
        (f"torch.addmm({new(o)}, {v}, {new(i, o)})", (shape[0], o)),
        (f"torch.addmm({new(o)}, {v}, {new(i, o)}, beta=0.5, alpha=2)", (shape[0], o)),
        (f"F.linear({v}, {new(o, i)}, {new(o)})", (shape[0], o)),
        (f"{v} @ {new(o, i)}.t()", (shape[0], o)),
        (f"torch.mm({v}, {new(o, i)}.T)", (shape[0], o)),
        (f"{v} @ {new(i, o)}[:, :{k}]", (shape[0], k)),
        (f"F.linear({v}, {new(o, i + 2)}[:, 1:-1])", (shape[0], o)),
        (f"F.linear({v}, {new(o, i)}[{k - 1}:], {new(o)}[{k - 1}:])", (shape[0], o - k + 1)),
        (f"{v} @ {new(i, r)} @ {new(r, o)}", (shape[0], o)),
        (f"{v} @ ({new(i, r)} @ {new(r, o)})", (shape[0], o)),
        (f"{v} @ ({new(1)} * {new(i, o)})", (shape[0], o)),
        (f"{v} @ ({new(i, 1)} * {new(i, o)})", (shape[0], o)),
        (f"{v} @ ({new(i, o)} * {new(o)}.sigmoid())", (shape[0], o)),
        (f"{v} @ ({new(i, o)} + {new(i, o)})", (shape[0], o)),
        (f"{v} @ torch.cat([{new(i, o)}, {new(i, r)}], 1)", (shape[0], o + r)),
        (f"{v} @ torch.stack([{new(i, o)}, {new(i, o)}]).mean(0)", (shape[0], o)),
        (f"{v} @ {new(i, o)}.tanh()", (shape[0], o)),
        (f"{v} @ {new(i * o)}.view({i}, {o})", (shape[0], o)),
        (f"F.linear({v}, F.normalize({new(o, i)}, dim=1))", (shape[0], o)),
        (f"{v} @ ({new(r)}.softmax(0)[:, None, None] * {new(r, i, o)}).sum(0)", (shape[0], o)),
        (f"{v} @ {new(r, i, o)}[{r - 1}]", (shape[0], o)),
        (f"({v}.unsqueeze(-1) * {new(i, o)}).sum(1)", (shape[0], o)),
        (f"({v}.unsqueeze(1) * {new(o, i)}).sum(-1)", (shape[0], o)),
        (f"({new(o, i)} @ {v}.t()).t()", (shape[0], o)),
    ]))  # fmt: skip


@op(flat, weight=2)
def square(b, v, shape):
    """A weight that serves both sides: symmetric, of itself, shared with another layer."""
    i = shape[1]
    w = b.parameter(i, i)
    b.emit(*b.choose([
        (f"{v} @ ({w} + {w}.t())", shape),
        (f"({v} @ {w}).relu() @ {w}.t()", shape),
        (f"{v} @ ({w} - {w}.t())", shape),
        (f"{v} @ ({w} @ {w})", shape),
        (f"{v} @ {w} @ {w}", shape),
        (f"{v} @ torch.triu({w})", shape),
        (f"({v} @ {w}) * {v}", shape),
        (f"({v} @ {w} * {v}).sum(-1, keepdim=True)", (shape[0], 1)),
        (f"{v} + {v} @ {w}.flip(0)", shape),
    ]))  # fmt: skip


@op(flat, weight=4)
def einsum(b, v, shape):
    i, o, r = shape[1], b.width(), b.choose([2, 3])
    rows, new = shape[0], b.parameter
    options = [
        (f"torch.einsum('ni,io->no', {v}, {new(i, o)})", (rows, o)),
        (f"torch.einsum('ni,oi->no', {v}, {new(o, i)})", (rows, o)),
        (f"torch.einsum('io,ni->no', {new(i, o)}, {v})", (rows, o)),
        (f"torch.einsum('ni,rio->nro', {v}, {new(r, i, o)})", (rows, r, o)),
        (f"torch.einsum('ni,rio->rno', {v}, {new(r, i, o)})", (r, rows, o)),
        (f"torch.einsum('ni,iro->nro', {v}, {new(i, r, o)})", (rows, r, o)),
        (f"torch.matmul({v}, {new(r, i, o)}).permute(1, 0, 2)", (rows, r, o)),
        (f"torch.matmul({v}, {new(r, i, o)}).sum(0)", (rows, o)),
        (f"torch.einsum('ni,ri->nri', {v}, {new(r, i)})", (rows, r, i)),
        (f"torch.einsum('ni,ro->nio', {v}, {new(r, o)}.sum(0, keepdim=True))", (rows, i, o)),
        (f"torch.tensordot({v}, {new(i, o)}, dims=([1], [0]))", (rows, o)),
    ]
    for blocks in (2, 3):
        if i % blocks == 0:
            own = (f"{v}.view(-1, {blocks}, {i // blocks})", new(blocks, i // blocks, r), (rows, blocks * r))
            options.append((f"torch.einsum('nbi,bio->nbo', {own[0]}, {own[1]}).reshape(-1, {blocks * r})", own[2]))
    b.emit(*b.choose(options))


@op(lambda s: edges(s) or nodes(s), weight=5)
def by_type(b, v, shape):
    """Weights per relation: looked up for every row, made of bases or of blocks, or one after the other."""
    i, o, count = shape[1], b.choose([2, 3, 4]), RELATIONS
    kind = "edge_type" if shape[0] == "E" else f"({KIND})"
    new = b.parameter
    weight = b.choose([
        new(count, i, o), f"({new(count, 2)} @ {new(2, i, o)}.view(2, -1)).view({count}, {i}, {o})",
        f"({new(count, 1, 1)} * {new(i, o)})", f"({new(count, i, o)} + {new(1, i, o)})",
        f"torch.einsum('rb,bio->rio', {new(count, 2)}, {new(2, i, o)})", f"{new(count, o, i)}.transpose(1, 2)",
        f"{new(count, i * o)}.view({count}, {i}, {o})", f"{new(count, i, o + 1)}[..., :{o}]",
    ])  # fmt: skip
    b.lines.append(f"w{len(b.lines)} = {weight}")
    w = f"w{len(b.lines) - 1}"
    b.emit(b.choose([
        f"torch.bmm({v}.unsqueeze(1), {w}[{kind}]).squeeze(1)",
        f"torch.bmm({v}.unsqueeze(-2), torch.index_select({w}, 0, {kind})).squeeze(-2)",
        f"torch.einsum('ei,eio->eo', {v}, {w}[{kind}])",
        f"({v}.unsqueeze(-1) * {w}[{kind}]).sum(1)",
        f"sum(({kind} == r).to({v}.dtype).unsqueeze(-1) * ({v} @ {w}[r]) for r in range({count}))",
        f"torch.stack([{v} @ {w}[r] for r in range({count})], 1).mean(1)",
        f"torch.stack([{v} @ {w}[r] for r in range({count})])[{kind}, torch.arange({v}.size(0))]",
        f"(torch.einsum('ei,rio->ero', {v}, {w}) * F.one_hot({kind}, {count}).to({v}.dtype).unsqueeze(-1)).sum(1)",
    ]), (shape[0], o))  # fmt: skip


@op(lambda s: edges(s) or nodes(s), weight=4)
def table(b, v, shape):
    """Embeddings of types: added, multiplied, concatenated, scored."""
    i = shape[1]
    kind = "edge_type" if shape[0] == "E" else f"({KIND})"
    look = b.choose(["{0}[{1}]", "F.embedding({1}, {0})", "{0}.index_select(0, {1})", "EMBED", "{0}.relu()[{1}]",
                     "(F.one_hot({1}, 3).to(x.dtype) @ {0})"])  # fmt: skip
    if look == "EMBED":
        found = f"{b.part(f'nn.Embedding({RELATIONS}, {i})')}({kind})"
    else:
        found = look.format(b.parameter(RELATIONS, i), kind)
    b.emit(*b.choose([
        (f"{v} + {found}", shape),
        (f"{v} * {found}", shape),
        (f"torch.cat([{v}, {found}], -1)", (shape[0], 2 * i)),
        (f"({v} * {found}).sum(-1, keepdim=True)", (shape[0], 1)),
        (f"{found}", shape),
        (f"({v} + {found}).relu() * {found}", shape),
    ]))  # fmt: skip


@op(flat)
def on_their_own(b, v, shape):
    """Parameters that are values: repeated for every row, or multiplied with each other."""
    o = b.choose([2, 3, 4])
    new = b.parameter
    b.emit(*b.choose([
        (f"{new(1, o)}.expand({v}.size(0), -1)", (shape[0], o)),
        (f"{new(o)}.repeat({v}.size(0), 1)", (shape[0], o)),
        (f"{v}.mean(-1, keepdim=True) * {new(o)}", (shape[0], o)),
        (f"torch.cat([{v}, {new(1, o)}.expand({v}.size(0), {o})], 1)", (shape[0], shape[1] + o)),
        (f"{v} + {new(1, o)} @ {new(o, shape[1])}", shape),
        (f"{v} + {b.part(f'nn.Linear({o}, {shape[1]})')}({new(o)})", shape),
    ]))  # fmt: skip


@op(flat)
def bilinear(b, v, shape):
    other = b.take(lambda s: flat(s) and s[0] == shape[0])
    o = b.choose([2, 3])
    w = other[1][1]
    b.emit(*b.choose([
        (f"{b.part(f'nn.Bilinear({shape[1]}, {w}, {o})')}({v}, {other[0]})", (shape[0], o)),
        (f"F.bilinear({v}, {other[0]}, {b.parameter(o, shape[1], w)})", (shape[0], o)),
        (f"({v} @ {b.parameter(shape[1], w)} * {other[0]}).sum(-1, keepdim=True)", (shape[0], 1)),
        (f"torch.einsum('ni,nj->nij', {v} + 0, {other[0]}).flatten(1)", (shape[0], shape[1] * w)),
    ]))  # fmt: skip
