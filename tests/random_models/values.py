"""Operations channel by channel: activations, arithmetic, gates, constants, in-place changes."""

from tests.random_models.build import channelled, flat, has_rows, op, wide

UNARY_TABLE = """
    {0}.relu() | F.elu({0}) | {0}.tanh() | {0}.sigmoid() | F.leaky_relu({0}, 0.2) | F.gelu({0}) | F.silu({0})
    -{0} | {0}.clamp(max=2).exp() | F.softplus({0}) | F.dropout({0}, 0.0, self.training) | {0} * 0.5 | {0} / 3
    2 - {0} | {0} + 1 | {0}.abs() | {0} * {0} | {0}.square() | 1 / (1 + {0}.abs()) | {0}.clamp(min=0.1)
    {0}.masked_fill({0} < 0, 0.0) | {0}.sin() | {0}.cos() | {0}.abs().add(1e-3).sqrt() | F.relu6({0}) | {0} ** 2
    torch.where({0} > 0, {0}, 0.1 * {0}) | {0}.clone() | {0}.contiguous() | {0}.to({0}.dtype) | torch.zeros_like({0})
    {0} * (edge_index.size(1) + 1) | {0} + {0}.mean() | F.logsigmoid({0}) | {0}.sign() * {0}.abs().log1p()
    torch.ones_like({0}) | {0} - {0}.detach() | {0} + torch.zeros_like({0}) | {0} * torch.zeros_like({0}) | 0 * {0}
    torch.full_like({0}, 0.5) * {0} | {0}.clamp(-1, 1) | torch.nan_to_num({0}) | {0} / {0}.abs().clamp(min=1)
    {0}.type_as(x) | F.hardtanh({0}) | torch.rsub({0}, 1) | {0}.neg().relu() - {0}.relu()
"""
BINARY_TABLE = """
    {0} + {1} | {0} - {1} | {0} * {1} | torch.maximum({0}, {1}) | torch.min({0}, {1}) | {0} / (1 + {1}.abs())
    sum([{0}, {1}]) | torch.lerp({0}, {1}, 0.3) | torch.addcmul({0}, {1}, {0}) | torch.where({0} > {1}, {0}, {1})
    {0} * {1}.sigmoid() + {1} * (1 - {1}.sigmoid()) | {0} + 0 * {1} | {0}.add({1}, alpha=0.5) | torch.hypot({0}, {1})
    torch.sigmoid({0}) * torch.tanh({1}) | {0} + (1 - {0}) * {1} | {0}.masked_fill({1} > 1, -1.0) | {0} - {0} * {1}
    torch.addcdiv({0}, {1}, 1 + {0}.square()) | torch.where({1} > 0, {0}, torch.zeros_like({0}))
"""
JOINED_TABLE = """
    torch.stack([{0}, {1}]).amax(0) | torch.stack([{0}, {1}], -1).sum(-1) | torch.stack([{0}, {1}], 1).mean(1)
    torch.stack([{0}, {1}], dim=-1).max(dim=-1)[0] | torch.cat([{0}, {1}], 0)[: {0}.size(0)]
    torch.stack([{0}, {1}], 1)[:, 1] | torch.stack([{0}, {1}]).sum(0) | torch.stack([{0}, {1}], 0).mean(dim=0)
    (torch.stack([{0}, {1}], 1) * torch.softmax(torch.stack([{0}, {1}], 1).sum(-1, keepdim=True), 1)).sum(1)
    torch.cat([{0}.unsqueeze(1), {1}.unsqueeze(1)], 1).amin(1) | torch.stack([{1}, {0}], -1)[..., 0]
"""
UNARY, BINARY, JOINED = (
    [expression.strip() for line in table.strip().splitlines() for expression in line.split("|")]
    for table in (UNARY_TABLE, BINARY_TABLE, JOINED_TABLE)
)


@op(weight=14)
def unary(b, v, shape):
    b.emit(b.choose(UNARY).format(v), shape)


@op(weight=12)
def binary(b, v, shape):
    other = b.take(lambda s: s == shape)[0]
    joined = JOINED if other != v and isinstance(shape[0], str) else []
    b.emit(b.choose([*BINARY, *joined]).format(v, other), shape)


@op(lambda s: isinstance(s[0], str) and wide(s))
def make_gate(b, v, shape):
    b.emit(f"{v}.{b.choose(['sum', 'mean', 'amax', 'norm'])}(dim=-1, keepdim=True)", (*shape[:-1], 1))


@op(lambda s: s[-1] == 1 and isinstance(s[0], str), weight=2)
def gate(b, v, shape):
    other = b.take(lambda s: s[:-1] == shape[:-1] and wide(s))
    if other is not None:
        form = b.choose(["{0} * {1}", "{0} + {1}", "{0}.sigmoid() * {1}", "{0}.expand_as({1}) * {1}"])
        b.emit(form.format(v, other[0]), other[1])


@op(flat, weight=2)
def scale(b, v, shape):
    own = b.choose([(shape[1],), (1, shape[1]), (1,), ()])
    code = f"nn.Parameter(torch.randn({list(own)}))"
    b.emit(f"{v} {b.choose('*+-')} {b.part(code)}", shape)


@op(lambda s: has_rows(s) and wide(s), weight=2)
def constants(b, v, shape):
    """Zeros and ones that are known: padding, masks of channels, one-hot rows."""
    width, rows, lead = shape[-1], f"{v}.size(0)", shape[:-1]
    sizes = ", ".join([rows, *map(str, lead[1:])])
    mask = b.part(f"(torch.arange({width}) % 2).double()")
    b.emit(*b.choose([
        (f"F.pad({v}, (1, 2))", (*lead, width + 3)),
        (f"F.pad({v}, (0, 1), value=1.0)", (*lead, width + 1)),
        (f"torch.cat([{v}, {v}.new_zeros({sizes}, 2)], -1)", (*lead, width + 2)),
        (f"torch.cat([{v}.new_ones({sizes}, 1), {v}], -1)", (*lead, width + 1)),
        (f"torch.cat([{v}, torch.zeros({sizes}, 1, dtype={v}.dtype)], -1)", (*lead, width + 1)),
        (f"torch.cat([{v}, torch.zeros_like({v})], -1)", (*lead, 2 * width)),
        (f"{v} * {mask}", shape),
        (f"{v} * (1 - {mask})", shape),
        (f"torch.where({mask} > 0, {v}, torch.zeros_like({v}))", shape),
        (f"torch.cat([{v}[..., :1], 0 * {v}[..., 1:]], -1)", shape),
        (f"{v} - {v}[..., :1]", shape),
    ]))  # fmt: skip


@op(lambda s: isinstance(s[0], str) and channelled(s), weight=3)
def in_place(b, v, shape):
    name, _ = b.emit(f"{v} * 1.5", shape)
    other = b.take(lambda s: s == shape)[0]
    column = ", ".join(":" for _ in shape[:-1]) + ", 0"
    change = b.choose(["{0}.relu_()", "{0}.add_({1})", "{0} += {1}", "{0} *= 2", "{0}.mul_({1})", "{0}.clamp_(min=-1)",
                       "F.elu_({0})", f"{{0}}[{column}] = 0", "{0}.sub_({1}, alpha=2)", "{0}.div_(4)",
                       "{0}.masked_fill_({0} > 1, 0.5)", "F.leaky_relu({0}, 0.1, inplace=True)"])  # fmt: skip
    b.lines.append(change.format(name, other if other != name else 1))
