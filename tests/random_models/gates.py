"""Gated and recurrent units."""

from tests.random_models.build import flat, heads, op


@op(lambda s: flat(s) and s[1] % 2 == 0, weight=2)
def glu(b, v, shape):
    form = b.choose(["F.glu({0})", "F.glu({0}, dim=1)", "{1}({0})"])
    b.emit(form.format(v, b.part("nn.GLU()") if "{1}" in form else ""), (shape[0], shape[1] // 2))


@op(flat, weight=3)
def cell(b, v, shape):
    """A cell that updates a state of its own width, or starts one."""
    other = b.take(lambda s: flat(s) and s[0] == shape[0])
    width = other[1][1]
    start = b.choose([2, 4])
    b.emit(*b.choose([
        (f"{b.part(f'nn.GRUCell({shape[1]}, {width})')}({v}, {other[0]})", other[1]),
        (f"{b.part(f'nn.GRUCell({shape[1]}, {start})')}({v})", (shape[0], start)),
        (f"{b.part(f'nn.LSTMCell({shape[1]}, {width})')}({v}, ({other[0]}, {other[0]}.tanh()))[0]", other[1]),
        (f"{b.part(f'nn.LSTMCell({shape[1]}, {start})')}({v})[1]", (shape[0], start)),
        (f"{b.part(f'nn.RNNCell({shape[1]}, {width})')}({v}, {other[0]})", other[1]),
    ]))  # fmt: skip


@op(lambda s: flat(s) or heads(s), weight=2)
def recurrent(b, v, shape):
    """A recurrent layer over stacked values, such as the outputs of several layers."""
    rows, width, h = shape[0], shape[-1], b.choose([2, 3])
    if heads(shape):
        sequence, steps = v, shape[1]
    else:
        other = b.take(lambda s: s == shape)[0]
        sequence, steps = f"torch.stack([{v}, {other if other != v else v + '.relu()'}], 1)", 2
    both = b.choose([False, True])
    kind = b.choose(["LSTM", "GRU", "RNN"])
    name = b.part(f"nn.{kind}({width}, {h}, batch_first=True, bidirectional={both})")
    result, state = (rows, steps, h * (1 + both)), "[0]" if kind == "LSTM" else ""
    b.emit(*b.choose([
        (f"{name}({sequence})[0]", result),
        (f"{name}({sequence})[0] + {name}({sequence}.flip(1).tanh())[0]", result),
        (f"{name}({sequence})[0][:, -1]", (rows, h * (1 + both))),
        (f"{name}({sequence})[1]{state}[-1]", (rows, h)),
        (f"{name}({sequence})[0].amax(1)", (rows, h * (1 + both))),
    ]))  # fmt: skip


@op(flat)
def highway(b, v, shape):
    """A learned mix of two values, or of a value and what a layer makes of it."""
    other = b.take(lambda s: s == shape)[0]
    gate = b.part(f"nn.Linear({shape[1]}, {b.choose([1, shape[1]])})")
    form = b.choose(["torch.sigmoid({2}({0})) * {0} + (1 - torch.sigmoid({2}({0}))) * {1}",
                     "{2}({1}).sigmoid() * {0}", "{0} + {2}({0} * {1}).tanh() * {1}",
                     "torch.lerp({0}, {1}, {2}({0}).sigmoid())"])  # fmt: skip
    b.emit(form.format(v, other, gate), shape)
