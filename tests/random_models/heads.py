"""Values with two channel axes: heads that are reduced, permuted, scored, normalised."""

from tests.random_models.build import heads, op


@op(heads, weight=16)
def from_heads(b, v, shape):
    rows, h, c = shape
    head = b.choose(range(h))
    b.emit(*b.choose([
        (f"{v}.flatten(1)", (rows, h * c)),
        (f"{v}.flatten(-2)", (rows, h * c)),
        (f"{v}.reshape(-1, {h * c})", (rows, h * c)),
        (f"{v}.mean(dim=1)", (rows, c)),
        (f"{v}.sum(1)", (rows, c)),
        (f"{v}.amax(1)", (rows, c)),
        (f"{v}.sum(-1)", (rows, h)),
        (f"{v}.mean(-1)", (rows, h)),
        (f"{v}.amax(-1)", (rows, h)),
        (f"{v}.norm(dim=-1)", (rows, h)),
        (f"{v} * {v}.mean(-1, keepdim=True)", shape),
        (f"{v} - {v}.amin(1, keepdim=True)", shape),
        (f"{v}[:, {head}]", (rows, c)),
        (f"{v}.select(1, {head})", (rows, c)),
        (f"{v}.transpose(1, 2)", (rows, c, h)),
        (f"{v}.permute(0, 2, 1)", (rows, c, h)),
        (f"{v}.transpose(1, 2).reshape(-1, {h * c})", (rows, h * c)),
        (f"{v}.transpose(0, 1)", (h, rows, c)),
        (f"torch.stack({v}.unbind(1)[::-1], 1)", shape),
        (f"torch.cat({v}.unbind(1), -1)", (rows, h * c)),
        (f"torch.softmax({v}, 1)", shape),
        (f"torch.softmax({v}, -1)", shape),
        (f"{v}.sum((1, 2)).unsqueeze(-1)", (rows, 1)),
        (f"F.normalize({v}, dim=-1)", shape),
        (f"{v}.flip(1)", shape),
        (f"{v}.roll(1, 1)", shape),
        (f"{v}.unflatten(0, (-1, 1)).squeeze(1)", shape),
        (f"{v}.repeat(1, 2, 1)", (rows, 2 * h, c)),
        (f"{v}.repeat_interleave(2, 1)", (rows, 2 * h, c)),
        (f"{v}.reshape(-1, {c}).view(-1, {h}, {c})", shape),
    ]))  # fmt: skip


@op(heads, weight=3)
def with_heads(b, v, shape):
    """Products of two values per head (attention scores), and parameters per head or channel."""
    rows, h, c = shape
    other = b.take(lambda s: s == shape)[0]
    own = b.choose([f"{h}, {c}", f"1, {c}", f"{h}, 1", f"{c}", f"1, {h}, {c}"])
    parameter = b.part(f"nn.Parameter(torch.randn({own}).view({own}))")
    b.emit(*b.choose([
        (f"({v} * {other}).sum(dim=-1)", (rows, h)),
        (f"({v} * {other}).sum(1)", (rows, c)),
        (f"({v} * {parameter}).sum(-1)", (rows, h)),
        (f"(F.leaky_relu({v}) * {parameter}).sum(-1)", (rows, h)),
        (f"(({v} + {other}).tanh() * {parameter}).sum(-1, keepdim=True)", (rows, h, 1)),
        (f"{v} * {parameter}", shape),
        (f"{v} + {parameter}", shape),
    ]))  # fmt: skip


@op(heads, weight=3)
def between_heads(b, v, shape):
    """Heads, or the values stacked as heads, that attend to each other in every row: q k products by matmul, einsum."""
    rows, h, c = shape
    other = b.take(lambda s: heads(s) and s[0] == rows and s[2] == c)
    k = other[1][1]
    b.emit(*b.choose([
        (f"{v} @ {other[0]}.transpose(1, 2)", (rows, h, k)),
        (f"torch.einsum('nhc,nkc->nhk', {v}, {other[0]})" if v != other[0] else f"{v}.tanh()",
         (rows, h, k) if v != other[0] else shape),
        (f"torch.softmax({v} @ {other[0]}.transpose(1, 2) / {c} ** 0.5, -1) @ {other[0]}", shape),
        (f"torch.bmm({v}, {other[0]}.mT)", (rows, h, k)),
        (f"F.scaled_dot_product_attention({v}, {other[0]}, {other[0]})", shape),
    ]))  # fmt: skip


@op(heads, weight=3)
def layers_on_heads(b, v, shape):
    """Layers along the axis of heads, and layers with a weight per head."""
    rows, h, c = shape
    d = b.choose([2, 3, 4])
    b.emit(*b.choose([
        (f"{b.part(f'nn.Linear({h}, {d})')}({v}.transpose(1, 2)).transpose(1, 2)", (rows, d, c)),
        (f"{b.part(f'nn.Conv1d({h}, {d}, 1)')}({v})", (rows, d, c)),
        (f"{b.part(f'nn.Conv1d({h}, {d}, 2, padding=1)')}({v})", (rows, d, c + 1)),
        (f"torch.einsum('nhc,hcd->nhd', {v}, {b.parameter(h, c, d)})", (rows, h, d)),
        (f"torch.einsum('nhc,hdc->nhd', {v}, {b.parameter(h, d, c)})", (rows, h, d)),
        (f"torch.einsum('nhc,cd->nhd', {v}, {b.parameter(c, d)})", (rows, h, d)),
        (f"torch.einsum('nhc,hk->nkc', {v}, {b.parameter(h, d)})", (rows, d, c)),
        (f"torch.einsum('nhc,hco->no', {v}, {b.parameter(h, c, d)})", (rows, d)),
        (f"torch.einsum('nhc,hc->nh', {v}, {b.parameter(h, c)})", (rows, h)),
        (f"torch.matmul({v}.unsqueeze(2), {b.parameter(h, c, d)}).squeeze(2)", (rows, h, d)),
        (f"torch.bmm({v}.transpose(0, 1), {b.parameter(h, c, d)}).transpose(0, 1)", (rows, h, d)),
        (f"{v} @ {b.parameter(c, d)}", (rows, h, d)),
        (f"{b.parameter(d, h)} @ {v}", (rows, d, c)),
    ]))  # fmt: skip


@op(lambda s: len(s) == 3 and isinstance(s[0], int) and isinstance(s[1], str), weight=3)
def heads_in_front(b, v, shape):
    h, rows, c = shape
    head = b.choose(range(h))
    b.emit(*b.choose([
        (f"{v}.permute(1, 0, 2)", (rows, h, c)),
        (f"{v}.mean(0)", (rows, c)),
        (f"{v}[{head}]", (rows, c)),
        (f"torch.cat(list({v}), -1)", (rows, h * c)),
        (f"{v}.movedim(0, 1).flatten(1)", (rows, h * c)),
    ]))  # fmt: skip


@op(heads)
def head_gate(b, v, shape):
    other = b.take(lambda s: s == (shape[0], shape[1]))
    if other is not None:
        b.emit(f"{v} * {other[0]}.unsqueeze(-1)", shape)
    other = b.take(lambda s: s == (shape[0], shape[2]))
    if other is not None:
        b.emit(f"{v} + {other[0]}[:, None]", shape)


@op(heads, weight=3)
def norm_heads(b, v, shape):
    code = b.choose([
        "nn.BatchNorm1d({0})", "nn.LayerNorm({1})", "nn.LayerNorm([{0}, {1}])", "nn.PReLU({0})", "nn.GroupNorm(1, {0})",
        "nn.InstanceNorm1d({0}, affine=True)", "nn.BatchNorm1d({0}, track_running_stats=False)",
    ])  # fmt: skip
    if shape[2] > 1 and not (shape[0] == "E" and "Instance" in code):  # torch's refuses a graph without edges
        b.emit(f"{b.part(code.format(*shape[1:]))}({v})", shape)
