"""Integers that number nodes in other shapes than edges, sequences of features, and a second graph."""

from tests.random_models.build import SERIES, STEPS, flat, has_rows, op


@op(lambda s: s[0] == "N" and has_rows(s), weight=3)
def select(b, v, shape):
    """Rows of seeds, of pairs, and of neighbours in a table."""
    b.emit(*b.choose([
        (f"{v}[seeds]", ("S", *shape[1:])),
        (f"{v}.index_select(0, seeds)", ("S", *shape[1:])),
        (f"{v}[pairs[:, 0]] - {v}[pairs[:, 1]]", ("P", *shape[1:])),
        (f"{v}[pairs].sum(1)", ("P", *shape[1:])),
        (f"torch.cat([{v}[pairs[:, 0]], {v}[pairs[:, 1]]], 1)", ("P", 2 * shape[1], *shape[2:])),
        (f"{v}[near].mean(1)", shape),
        (f"{v}[near].amax(1) - {v}", shape),
        (f"{v}[near[:, 0]]", shape),
    ]))  # fmt: skip


@op(lambda s: s[0] == "S" and has_rows(s), weight=2)
def put_back(b, v, shape):
    tail = ", ".join(str(size) for size in shape[1:])
    b.emit(f"{v}.new_zeros(x.size(0), {tail}).index_add(0, seeds, {v})", ("N", *shape[1:]))


@op(lambda s: s == ("N", STEPS, SERIES), weight=3)
def over_time(b, v, shape):
    b.emit(*b.choose([
        (f"{v}[:, {b.choose(range(STEPS))}]", ("N", SERIES)),
        (f"{v}.flatten(1)", ("N", STEPS * SERIES)),
        (f"{v}.mean(1)", ("N", SERIES)),
        (f"{b.part(f'nn.Conv1d({SERIES}, 3, 2)')}({v}.transpose(1, 2)).amax(-1)", ("N", 3)),
        (f"sum({v}[:, t] * (t + 1) for t in range({STEPS}))", ("N", SERIES)),
    ]))  # fmt: skip


@op(lambda s: s[0] == "M" and has_rows(s), weight=3)
def second_graph(b, v, shape):
    """Messages of the second graph, and what its nodes and those of the first tell each other."""
    near = f"scatter({v}[edge_index_t[0]], edge_index_t[1], 0, dim_size=x_t.size(0), reduce='sum')"
    options = [near, f"{v} + {near}", f"{v} - {v}.mean(0)"]
    other = b.take(lambda s: s == ("N", *shape[1:]))
    if other is not None and flat(shape):
        options += [f"{v} + {other[0]}.mean(0)", f"torch.softmax({v} @ {other[0]}.t(), -1) @ {other[0]}"]
    b.emit(b.choose(options), shape)


@op(lambda s: s[0] == "M" and flat(s), weight=2)
def to_the_first(b, v, shape):
    other = b.take(lambda s: s == ("N", shape[1]))
    b.emit(f"{other[0]} * {v}.amax(0)" if other else f"{v}.tanh()", other[1] if other else shape)
