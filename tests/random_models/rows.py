"""Operations on whole rows: permutations, graphs of a batch, pooling, dense batches and attention over them."""

from tests.random_models.build import flat, has_rows, nodes, op


@op(lambda s: s[0] == "N" and has_rows(s), weight=3)
def rows(b, v, shape):
    tail = "[..., None]" * (len(shape) - 2)
    expression = b.choose([
        "{0} - {0}.mean(0, keepdim=True)", "{0}.flip(0)", "torch.flip({0}, [0])", "torch.roll({0}, 1, 0)",
        "{0}.flip(0, 1)", "{0}[x[:, 0].argsort()]", "{0}[x[:, 0].argsort(), ...]",
        "{0}[x[:, 0].argsort(), None].squeeze(1)", "{0} * (x.size(0) // 7)",
        "{0}[torch.stack([batch, batch.flip(0)], 1)].sum(1)", "{0}.cumsum(0)",
        "{0} * (x[:, :1] > 0)" + tail, "torch.cat([{0}[1:], {0}[:1]], 0)", "{0} + {0}.amax(0)",
        "{0} / (1 + {0}.abs().sum(0))",
    ])  # fmt: skip
    b.emit(expression.format(v), shape)


@op(lambda s: s[0] == "N" and has_rows(s) and s[1] > 1, weight=2)
def rows_and_channels(b, v, shape):
    """Indices into rows and channels at once; some choose a channel by value, which may differ from row to row."""
    first, rest = shape[1] - 1, shape[2:]
    choice = f"(x[:, :1] > 1.7).long(){'[..., None]' * len(rest)}.expand({', '.join(['-1', '1', *map(str, rest)])})"
    options = [("{0}[x[:, 0].argsort(), 1:]", ("N", first, *rest)), ("{0}[edge_index[0], 1:]", ("E", first, *rest))]
    if rest:
        options += [
            ("{0}[batch, 0]", ("N", *rest)),
            ("{0}[torch.arange(x.size(0)), (x[:, 0] > 1.7).long()]", ("N", *rest)),
        ]
    expression, result = b.choose([*options, (f"{{0}}.gather(1, {choice})", ("N", 1, *rest))])
    b.emit(expression.format(v), result)


@op(nodes, weight=2)
def pool(b, v, shape):
    form, times = b.choose([
        ("pyg.global_mean_pool({0}, batch)", 1), ("pyg.global_add_pool({0}, batch)", 1),
        ("pyg.global_max_pool({0}, batch)", 1), ("MULTI({0}, batch)", 2), ("ATTENTION({0}, batch)", 1),
        ("torch.cat([pyg.global_mean_pool({0}, batch), pyg.global_max_pool({0}, batch)], 1)", 2),
        ("SET({0}, batch)", 2), ("scatter({0}, batch, 0, reduce='mean')", 1),
    ])  # fmt: skip
    for word, code in (("MULTI", "pyg.MultiAggregation(['mean', 'std'])"), ("SET", f"pyg.Set2Set({shape[1]}, 2)"),
                       ("ATTENTION", f"pyg.AttentionalAggregation(nn.Linear({shape[1]}, 1))")):  # fmt: skip
        if word in form:
            form = form.replace(word, b.part(code))
    b.emit(form.format(v), ("B", times * shape[1]))


@op(lambda s: s[0] == "B" and has_rows(s), weight=2)
def unpool(b, v, shape):
    b.emit(f"{v}[batch]", ("N", *shape[1:]))


@op(nodes, weight=2)
def clusters(b, v, shape):
    """Soft clusters of every graph: a sum over its nodes, weighted by an assignment."""
    other, (_, k) = b.take(nodes)
    share = b.choose([f"{other}.softmax(-1)", other, f"{other}.sigmoid()"])
    dense = "to_dense_batch({0}, batch)[0]"
    b.emit(b.choose([
        f"scatter({share}.unsqueeze(-1) * {v}.unsqueeze(1), batch, 0)",
        f"{dense.format(share)}.transpose(1, 2) @ {dense.format(v)}",
        f"torch.einsum('blk,blc->bkc', {dense.format(share)}, {dense.format(v)})",
    ]), ("B", k, shape[1]))  # fmt: skip


@op(nodes, weight=2)
def dense(b, v, shape):
    b.emit(f"to_dense_batch({v}, batch)[0]", ("B", "L", shape[1]))


@op(lambda s: len(s) == 3 and s[:2] == ("B", "L"), weight=3)
def from_dense(b, v, shape):
    c, h = shape[2], next(h for h in (2, 3, 1) if shape[2] % h == 0)
    other = b.take(lambda s: s == shape)[0]
    b.emit(*b.choose([
        (f"{v}.sum(1)", ("B", c)),
        (f"{v}.mean(dim=1)", ("B", c)),
        (f"{v}.amax(1)", ("B", c)),
        (f"{v}[to_dense_batch(x, batch)[1]]", ("N", c)),
        (f"{b.part(f'nn.MultiheadAttention({c}, {h}, batch_first=True)')}({v}, {other}, {other})[0]", shape),
        (f"{b.part(f'nn.MultiheadAttention({c}, {h}, batch_first=True)')}({v}, {v}, {v}, "
         "key_padding_mask=~to_dense_batch(x, batch)[1], need_weights=False)[0]", shape),
        (f"torch.softmax({v} @ {other}.transpose(1, 2) / {c} ** 0.5, -1) @ {v}", shape),
        (f"{v}.transpose(1, 2).flip(1).transpose(1, 2)", shape),
        (f"{v} * to_dense_batch(x, batch)[1].unsqueeze(-1)", shape),
        (f"F.layer_norm({v}, ({c},))", shape),
        (f"{b.part(f'nn.Conv1d({c}, 3, 1)')}({v}.transpose(1, 2)).transpose(1, 2)", ("B", "L", 3)),
    ]))  # fmt: skip


@op(flat)
def statistics(b, v, shape):
    """Standard scores over all rows, and squeeze-and-excitation of all of them."""
    name = b.part(f"nn.Linear({shape[1]}, {shape[1]})")
    b.emit(b.choose([
        f"({v} - {v}.mean(0)) / ({v}.var(0, unbiased=False) + 1e-3).sqrt()", f"{v} * {name}({v}.mean(0)).sigmoid()",
        f"{v} * {name}({v}.sum(0, keepdim=True)).tanh()",
        f"{v} + {name}({v}.{'sum' if shape[0] == 'E' else 'amax'}(dim=0))",
    ]), shape)  # fmt: skip
