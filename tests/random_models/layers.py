"""Layers: linear ones, norms, modules called again on something else (tied), jumping knowledge."""

from tests.random_models.build import SHARED_BATCH_NORMS, channelled, flat, heads, nodes, op, wide


@op(channelled, weight=14)
def linear(b, v, shape):
    width = b.width()
    bias = b.choose([True, False])
    code = b.choose(["nn.Linear({0}, {1}, bias={2})", "pyg.Linear({0}, {1}, bias={2})"])
    name = b.linear(shape[-1], width, code.replace("{2}", str(bias)))
    b.emit(f"{name}({v})", (*shape[:-1], width))


@op(channelled, weight=6)
def shared(b, v, shape):
    known = [call for call in b.calls if call[1] == shape[-1] and (flat(shape) or call[0] not in b.norms)]
    if known:
        name, _, width = b.choose(known)
        b.emit(f"{name}({v})", (*shape[:-1], width))


@op(flat, weight=2)
def tied(b, v, shape):
    """One weight used both ways, or sliced for one of its readers, or called twice in a line."""
    width = b.width()
    name = b.linear(shape[1], width)
    b.emit(*b.choose([
        (f"F.linear({name}({v}).relu(), {name}.weight.t())", shape),
        (f"{name}({v}).tanh() @ {name}.weight", shape),
        (f"{name}({v}) + {name}({v}.relu())", (shape[0], width)),
        (f"torch.cat([{name}({v}), {name}(-{v})], -1)", (shape[0], 2 * width)),
        (f"{name}({v}) - F.linear({v}, {name}.weight)", (shape[0], width)),
        (f"F.linear({v}.sin(), {name}.weight, {name}.bias)", (shape[0], width)),
    ]))  # fmt: skip


@op(flat, weight=2)
def two_layers(b, v, shape):
    width, out = b.width(), b.width()
    norm = b.choose(["", f"nn.BatchNorm1d({width}), ", f"nn.LayerNorm({width}), "])
    name = b.part(
        f"nn.Sequential(nn.Linear({shape[1]}, {width}), {norm}nn.ReLU(inplace=True), nn.Linear({width}, {out}))"
    )
    b.callable_again(name, shape[1], out)
    b.emit(f"{name}({v})", (shape[0], out))


@op(flat)
def packaged(b, v, shape):
    """MLP of PyG, with and without a norm, and residual blocks."""
    width, out = b.choose([4, 6]), b.width()
    code = b.choose(["pyg.MLP([{0}, {1}, {2}], norm=None)", "pyg.MLP([{0}, {1}, {2}])",
                     "pyg.MLP([{0}, {1}, {2}], norm='layer_norm', plain_last=False)"])  # fmt: skip
    b.emit(f"{b.part(code.format(shape[1], width, out))}({v})", (shape[0], out))


@op(flat, weight=6)
def norm(b, v, shape):
    code = b.choose([
        "nn.BatchNorm1d({0})", "pyg.BatchNorm({0})", "nn.LayerNorm({0})", "pyg.GraphNorm({0})", "nn.PReLU({0})",
        "nn.PReLU()", "pyg.LayerNorm({0})", "pyg.PairNorm()", "pyg.InstanceNorm({0})", "pyg.MeanSubtractionNorm()",
        "nn.Softmax(-1)", "nn.BatchNorm1d({0}, affine=False)", "pyg.GraphSizeNorm()", "nn.Identity()",
        "nn.LayerNorm({0}, elementwise_affine=False)", "nn.GroupNorm(1, {0})", "nn.RMSNorm({0})",
        "pyg.LayerNorm({0}, mode='node')", "pyg.DiffGroupNorm({0}, 2)",
    ])  # fmt: skip
    name = b.part(code.format(shape[1]))
    b.callable_again(name, shape[1], shape[1])
    b.norms.add(name)
    b.emit(f"{name}({v})", shape)


@op(nodes)
def norm_per_graph(b, v, shape):
    code = b.choose(["pyg.GraphNorm({0})", "pyg.LayerNorm({0})", "pyg.InstanceNorm({0})", "pyg.PairNorm()"])
    b.emit(f"{b.part(code.format(shape[1]))}({v}, batch)", shape)


@op(flat)
def normalised(b, v, shape):
    form = b.choose(["F.normalize({0}, dim=-1)", "{0} / {0}.norm(dim=-1, keepdim=True).clamp(min=1e-6)",
                     "F.layer_norm({0}, ({1},))", "{0}.softmax(-1)", "F.log_softmax({0}, dim=-1)",
                     "({0} - {0}.mean(-1, keepdim=True)) / ({0}.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()",
                     "{0}.cumsum(-1)", "{0}.sort(-1)[0]"])  # fmt: skip
    b.emit(form.format(v, shape[1]), shape)


@op(lambda s: nodes(s) and wide(s))
def jump(b, v, shape):
    other = b.take(lambda s: s == shape)
    mode = b.choose(["max", "cat", "lstm"])
    if other[0] != v:
        width = shape[1] * (2 if mode == "cat" else 1)
        b.emit(f"{b.part(f'pyg.JumpingKnowledge({mode!r}, {shape[1]}, 2)')}([{v}, {other[0]}])", ("N", width))


@op(lambda s: flat(s) or heads(s), weight=2)
def residual(b, v, shape):
    """A skip connection around a layer, before or after an activation."""
    name = b.linear(shape[-1], shape[-1], f"nn.Linear({{0}}, {{1}}, bias={b.choose([True, False])})")
    form = b.choose(["{0} + {1}({0}).relu()", "({0} + {1}({0})).relu()", "0.5 * {0} + {1}({0}.tanh())",
                     "{1}({1}({0}).relu()) + {0}", "torch.cat([{0}, {1}({0})], -1)"])  # fmt: skip
    b.emit(form.format(v, name), (*shape[:-1], shape[-1] * (2 if "cat" in form else 1)))


@op(flat, weight=2)
def stack(b, v, shape):
    """The same layer several times, or several layers in a loop, whose outputs all count."""
    c, k, rows = shape[1], len(b.lines), shape[0]
    own = b.part(f"nn.ModuleList([nn.Linear({c}, {c}), pyg.Linear({c}, {c}), nn.Linear({c}, {c}, bias=False)])")
    norms = [f"nn.LayerNorm({c})", "nn.Identity()", *([f"nn.BatchNorm1d({c})"] if SHARED_BATCH_NORMS else [])]
    norm = b.part(b.choose(norms))
    b.lines.append(f"s{k} = [{v}]")
    b.lines.append(f"for layer in {own}: s{k}.append({norm}(layer(s{k}[-1])).relu() + s{k}[{b.choose([0, -1])}])")
    b.emit(*b.choose([
        (f"s{k}[-1]", shape), (f"torch.cat(s{k}, -1)", (rows, 4 * c)), (f"sum(s{k})", shape),
        (f"torch.stack(s{k}, 1)", (rows, 4, c)), (f"torch.stack(s{k}, -1).amax(-1)", shape),
        (f"torch.cat(s{k}[1:], 1)", (rows, 3 * c)),
        (f"(torch.stack(s{k}, 1) * {b.parameter(4, 1)}.softmax(0)).sum(1)", shape),
    ]))  # fmt: skip


@op(flat, weight=4)
def shared_norm(b, v, shape):
    """A norm or activation with parameters that two layers share, the first of which has readers of its own."""
    c = b.choose([4, 6, 3])
    codes = ["nn.PReLU({0})", "pyg.GraphNorm({0})", "nn.LayerNorm({0})", "pyg.InstanceNorm({0}, affine=True)"]
    norm = b.part(b.choose([*codes, *(["nn.BatchNorm1d({0})"] * 4 if SHARED_BATCH_NORMS else [])]).format(c))
    first, second, third = b.linear(shape[1], c), b.linear(c, c), b.linear(c, c)
    k = len(b.lines)
    b.lines.append(f"h{k} = {norm}({first}({v}))")
    b.values.append((f"h{k}", (shape[0], c)))
    b.emit(f"{norm}({b.choose([f'{second}(h{k})', f'{second}(h{k}) + {third}(h{k})', f'h{k}.tanh() + {v}.mean()'])})",
           (shape[0], c))  # fmt: skip
