"""Channels that move: slices, pieces, concatenations, reversals, repetitions."""

from tests.random_models.build import channelled, flat, has_rows, heads, op, wide


@op(lambda s: isinstance(s[0], str) and channelled(s), weight=8)
def cat(b, v, shape):
    parts = [v]
    width = shape[-1]
    for _ in range(b.choose([1, 2])):
        other = b.take(lambda s: s[:-1] == shape[:-1] and isinstance(s[-1], int))
        if other is None:
            return
        parts.append(other[0])
        width += other[1][-1]
    b.emit(f"torch.cat([{', '.join(parts)}], {b.choose([-1, len(shape) - 1])})", (*shape[:-1], width))


@op(heads)
def cat_heads(b, v, shape):
    other = b.take(lambda s: heads(s) and s[0] == shape[0] and s[2] == shape[2])
    b.emit(f"torch.cat([{v}, {other[0]}], 1)", (shape[0], shape[1] + other[1][1], shape[2]))


@op(lambda s: wide(s) and isinstance(s[0], str), weight=10)
def pieces(b, v, shape):
    width, lead = shape[-1], shape[:-1]
    dots = ", ".join(":" for _ in lead)
    cut = b.choose(range(1, width))
    expression, result = b.choose([
        (f"{v}[{dots}, :{cut}]", cut),
        (f"{v}[..., {cut}:]", width - cut),
        (f"{v}[{dots}, ::2]", (width + 1) // 2),
        (f"{v}[{dots}, [{cut}, 0, {width - 1}]]", 3),
        (f"{v}.narrow(-1, {cut}, {width - cut})", width - cut),
        (f"{v}.chunk(2, dim=-1)[0]", (width + 1) // 2),
        (f"{v}.chunk(2, dim=-1)[1]", width // 2),
        (f"torch.split({v}, [{cut}, {width - cut}], -1)[0]", cut),
        (f"torch.split({v}, [{cut}, {width - cut}], -1)[1]", width - cut),
        (f"{v}.tensor_split([{cut}], dim=-1)[1]", width - cut),
        (f"{v}.flip(-1)", width),
        (f"torch.roll({v}, {cut}, -1)", width),
        (f"torch.cat([{v}[..., {cut}:], {v}[..., :{cut}]], -1)", width),
        (f"{v}.repeat({'1, ' * len(lead)}2)", 2 * width),
        (f"{v}.tile(2)", 2 * width),
        (f"{v}.repeat_interleave(2, dim=-1)", 2 * width),
        (f"{v}[..., {cut}, None]", 1),
        (f"{v}.index_select(-1, INDEX)", 3),
        (f"{v}[..., INDEX]", 3),
        (f"{v}.unbind(-1)[{cut}].unsqueeze(-1)", 1),
        (f"torch.stack({v}.unbind(-1)[::-1], -1)", width),
        (f"{v}.movedim(-1, 0).flip(0).movedim(0, -1)", width),
        (f"{v}.select(-1, {cut}).unsqueeze(-1).expand({'-1, ' * len(lead)}2)", 2),
    ])  # fmt: skip
    if "INDEX" in expression:
        expression = expression.replace("INDEX", b.part(f"torch.randint({width}, (3,))"))
    b.emit(expression, (*lead, result))


@op(lambda s: wide(s) and isinstance(s[0], str), weight=3)
def halves(b, v, shape):
    """Both halves of a value, which then lead lives of their own or meet again."""
    width = shape[-1]
    if width % 2:
        return
    first = f"v{len(b.lines)}a"
    cut = b.choose(["{0}.chunk(2, dim=-1)", "torch.split({0}, {1}, dim=-1)", "{0}.unflatten(-1, (2, {1})).unbind(-2)",
                    "{0}[..., ::2], {0}[..., 1::2]", "({0}[..., :{1}], {0}[..., {1}:])"])  # fmt: skip
    b.lines.append(f"{first}, {first}b = {cut.format(v, width // 2)}")
    half = (*shape[:-1], width // 2)
    b.values += [(first, half), (f"{first}b", half)]
    b.emit(*b.choose([
        (f"{first} * {first}b.sigmoid()", half),
        (f"torch.cat([{first}b, {first}], -1)", shape),
        (f"torch.cat([{first}, {first} + {first}b], -1)", shape),
        (f"torch.cat([-{first}b, {first}], -1) * {v}.cos() + {v} * {v}.sin()", shape),
        (f"torch.stack([{first}, {first}b], -1).flatten(-2)", shape),
        (f"torch.maximum({first}, {first}b)", half),
    ]))  # fmt: skip


@op(flat, weight=10)
def to_heads(b, v, shape):
    counts = [h for h in (2, 3, 4) if shape[1] % h == 0 and shape[1] > h]
    if not counts:
        return
    h = b.choose(counts)
    c = shape[1] // h
    form = b.choose([
        "view(-1, {0}, {1})", "reshape(-1, {0}, {1})", "unflatten(1, ({0}, {1}))", "view({2}.size(0), {0}, {1})",
        "view(-1, {1}, {0}).transpose(1, 2)", "unflatten(1, ({0}, -1))",
    ])  # fmt: skip
    b.emit(f"{v}.{form.format(h, c, v)}", (shape[0], h, c))


@op(lambda s: has_rows(s) and len(s) <= 3, weight=2)
def new_axis(b, v, shape):
    """An axis of one channel more, repeated or not."""
    rows, rest = shape[0], shape[1:]
    times = b.choose([2, 3])
    if len(rest) == 1:
        b.emit(*b.choose([
            (f"{v}.unsqueeze(1).expand(-1, {times}, -1)", (rows, times, *rest)),
            (f"{v}.unsqueeze(1).repeat(1, {times}, 1)", (rows, times, *rest)),
            (f"{v}[:, None]", (rows, 1, *rest)),
            (f"{v}.unsqueeze(-1)", (rows, *rest, 1)),
            (f"torch.stack([{v}] * {times}, 1)", (rows, times, *rest)),
            (f"{v}.unsqueeze(-1) * {v}.unsqueeze(1)", (rows, *rest, *rest)),
        ]))  # fmt: skip


@op(lambda s: len(s) == 3 and has_rows(s) and 1 in s[1:], weight=2)
def drop_axis(b, v, shape):
    axis = 1 if shape[1] == 1 else 2
    b.emit(f"{v}.{b.choose(['squeeze', 'sum', 'mean'])}({axis})", tuple(s for a, s in enumerate(shape) if a != axis))
