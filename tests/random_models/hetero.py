"""A second type of nodes, and relations between the two: a layer per relation, hetero layers, rows of both types."""

from tests.random_models.build import Builder, flat, op

METADATA = '(["a", "b"], [("a", "in", "a"), ("a", "to", "b"), ("b", "of", "a")])'


def others(shape):
    """``[U, C]``."""
    return flat(shape) and shape[0] == "U"


def both(b: Builder):
    """A value of each type."""
    return b.take(lambda s: flat(s) and s[0] == "N"), b.take(others)


@op(others, weight=4)
def relation(b, v, shape):
    """One layer from one type to the other."""
    (first, (_, c)), d, o, h = b.take(lambda s: flat(s) and s[0] == "N"), shape[1], b.width(), b.choose([1, 2])
    to_other = b.choose([True, False])
    sizes, pair, where = f"({c}, {d})", f"({first}, {v})", "forth"
    if not to_other:
        sizes, pair, where = f"({d}, {c})", f"({v}, {first})", "back"
    code, width = b.choose([
        (f"SAGEConv({sizes}, {o})", o), (f"GraphConv({sizes}, {o})", o),
        (f"GATConv({sizes}, {o}, heads={h}, add_self_loops=False)", o * h),
        (f"GATv2Conv({sizes}, {o}, heads={h}, add_self_loops=False)", o * h),
        (f"TransformerConv({sizes}, {o}, heads={h})", o * h),
    ])  # fmt: skip
    b.emit(f"{b.part(f'pyg.{code}')}({pair}, {where})", ("U" if to_other else "N", width))


@op(others, weight=5)
def hetero_layer(b, v, shape):
    """All relations at once."""
    (first, (_, c)), d, o = b.take(lambda s: flat(s) and s[0] == "N"), shape[1], b.choose([2, 4, 3])
    aggr = b.choose(["sum", "mean", "max", "cat"])
    layer = b.choose(["SAGEConv(({0}, {1}), {2})", "GATConv(({0}, {1}), {2}, add_self_loops=False)",
                      "GraphConv(({0}, {1}), {2})"])  # fmt: skip
    of = lambda s, t: f"pyg.{layer.format(s, t, o)}"  # noqa: E731
    code, width = b.choose([
        (f'pyg.HeteroConv({{("a", "in", "a"): {of(c, c)}, ("a", "to", "b"): {of(c, d)}, '
         f'("b", "of", "a"): {of(d, c)}}}, aggr="{aggr}")', o),
        (f'pyg.HeteroConv({{("a", "to", "b"): {of(c, d)}, ("b", "of", "a"): {of(d, c)}}}, aggr="sum")', o),
        (f'pyg.HGTConv({{"a": {c}, "b": {d}}}, {2 * o}, {METADATA}, heads=2)', 2 * o),
    ])  # fmt: skip
    k = len(b.lines)
    b.lines.append(f'd{k} = {b.part(code)}({{"a": {first}, "b": {v}}}, edge_index_dict)')
    b.emit(f'd{k}["b"].relu()', ("U", width))
    b.emit(f'd{k}["a"].relu()', ("N", width * 2 if 'aggr="cat"' in code else width))


@op(others, weight=2)
def per_type(b, v, shape):
    """A layer for each type, in a dictionary."""
    (first, (_, c)), d, o = b.take(lambda s: flat(s) and s[0] == "N"), shape[1], b.width()
    code = b.choose([
        f'pyg.HeteroDictLinear({{"a": {c}, "b": {d}}}, {o})',
        f'nn.ModuleDict({{"a": nn.Linear({c}, {o}), "b": pyg.Linear({d}, {o}, bias=False)}})',
    ])  # fmt: skip
    name, k = b.part(code), len(b.lines)
    values = f'{{"a": {first}, "b": {v}}}'
    called = f"{name}({values})" if "Hetero" in code else f"{{t: {name}[t](z) for t, z in {values}.items()}}"
    b.lines.append(f"d{k} = {called}")
    b.emit(f'd{k}["b"]', ("U", o))
    b.emit(f'd{k}["a"].relu()', ("N", o))


@op(others, weight=3)
def rows_of_both(b, v, shape):
    """The rows of both types in one tensor, and apart again."""
    first = b.take(lambda s: flat(s) and s == ("N", shape[1]))
    if first is None:
        return
    c, k = shape[1], len(b.lines)
    layer = b.choose([f"nn.Linear({c}, 4)", f"nn.BatchNorm1d({c})", f"pyg.HeteroLinear({c}, 4, 2)", "nn.ReLU()"])
    types = ", torch.cat([x.new_zeros(x.size(0)), y.new_ones(y.size(0))]).long()" if "Hetero" in layer else ""
    b.lines.append(f"r{k} = {b.part(layer)}(torch.cat([{first[0]}, {v}], 0){types})")
    width = 4 if "4" in layer.split("(")[1] and "Linear" in layer else c
    b.emit(f"r{k}[x.size(0):]", ("U", width))
    b.emit(f"r{k}[:x.size(0)]", ("N", width))


@op(others, weight=3)
def across(b, v, shape):
    """Messages between the types by hand."""
    reduce = b.choose(["sum", "mean", "max"])
    first = b.take(lambda s: flat(s) and s[0] == "N")
    b.emit(*b.choose([
        (f"scatter({v}[back[0]], back[1], 0, dim_size=x.size(0), reduce='{reduce}')", ("N", shape[1])),
        (f"scatter({first[0]}[forth[0]], forth[1], 0, dim_size=y.size(0), reduce='{reduce}')", ("U", first[1][1])),
    ]))  # fmt: skip
