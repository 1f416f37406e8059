"""Random small GNNs with random zeros in their weights: traced, compacted and pruned they compute what they computed.

A program is a few lines of Python over values of known shape; it prints as the module it is, ready to be copied. Set
UPSCALE_FX_EXAMPLES to try more of them, and UPSCALE_FX_SEED to try others.
"""

import copy
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.utils import scatter
from torch_geometric.utils import softmax as pyg_softmax

import upscale_fx

EXAMPLES = int(os.environ.get("UPSCALE_FX_EXAMPLES", "1000"))
SEED = os.environ.get("UPSCALE_FX_SEED")
FEATURES, EDGE_FEATURES = 5, 3
WIDTHS = (6, 4, 8, 3, 2, 1)
SPACE = {"torch": torch, "nn": nn, "F": F, "pyg": pyg, "scatter": scatter, "pyg_softmax": pyg_softmax}

random_programs = settings(
    max_examples=EXAMPLES // 2,
    deadline=None,
    derandomize=SEED is None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
other_seed = seed(int(SEED)) if SEED else lambda test: test


@dataclass(frozen=True)
class Program:
    """Source of a model: its parts (attribute -> constructor), the lines of forward, and how zeros are drawn."""

    parts: dict[str, str]
    lines: list[str]
    result: str
    draw: int
    zeros: bool

    def __repr__(self):
        source = [f"    self.{name} = {code}" for name, code in self.parts.items()]
        source += ["  def forward(self, x, edge_index, edge_attr, batch):"]
        source += [f"    {line}" for line in [*self.lines, f"return {self.result}"]]
        return "\n" + "\n".join(source) + f"\n# draw={self.draw} zeros={self.zeros}\n"

    def build(self):
        """The model in float64 and eval mode."""
        torch.manual_seed(self.draw)
        body = "\n".join(f"    {line}" for line in [*self.lines, f"return {self.result}"])
        space = dict(SPACE)
        exec(f"def forward(self, x, edge_index, edge_attr, batch):\n{body}", space)
        model = type("Drawn", (nn.Module,), {"forward": space["forward"]})()
        for name, code in self.parts.items():
            part = eval(code, SPACE)
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(model, name, part)
            else:
                model.register_buffer(name, part)
        model.double().eval()
        _disturb(model)
        if self.zeros:
            _zero(model, torch.Generator().manual_seed(self.draw))
        return model


def _disturb(model):
    """Give norms statistics and weights that a fresh layer does not have, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


def _zero(model, generator):
    """Zero columns, rows (with and without their bias), blocks of rows, entries, all of a parameter, or nothing."""

    def chance(*shape):
        return torch.rand(shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            parameters = dict(module.named_parameters(recurse=False))
            for name, parameter in parameters.items():
                kind = chance(1).item()
                if parameter.dim() == 0 or kind < 0.2 or (parameter.dim() < 2 and kind < 0.8):
                    continue
                rows = chance(parameter.shape[0]) < 0.5
                if kind < 0.5:
                    parameter[..., chance(parameter.shape[-1]) < 0.5] = 0
                elif kind < 0.6:
                    parameter[rows] = 0
                elif kind < 0.8:
                    if kind < 0.7:  # a head
                        rows = torch.arange(parameter.shape[0]) < parameter.shape[0] // 2
                    parameter[rows] = 0
                    bias = parameters.get("bias")
                    if name != "bias" and bias is not None and bias.shape[0] == len(rows):
                        bias[rows] = 0
                elif kind < 0.95:
                    parameter[chance(*parameter.shape) < 0.6] = 0
                else:
                    parameter.zero_()


# Drawing programs -------------------------------------------------------------------------------------------------


@dataclass
class Builder:
    """A program under construction: values are (expression, shape), their row axis named N, E or B."""

    draw: object
    values: list = field(default_factory=lambda: [("x", ("N", FEATURES))])
    parts: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def choose(self, options):
        return self.draw(st.sampled_from(options))

    def take(self, fits=lambda shape: True):
        """A value that fits, most likely a late one; None if there is none."""
        found = [value for value in reversed(self.values) if fits(value[1])]
        return self.choose([*found[:2], *found]) if found else None

    def emit(self, expression, shape):
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.values.append((name, tuple(shape)))
        return self.values[-1]

    def part(self, code):
        name = f"p{len(self.parts)}"
        self.parts[name] = code
        return f"self.{name}"


OPS: list[Callable] = []


def op(fits=lambda shape: True, weight=1):
    """Register an operation on one value (expression and shape) whose shape fits."""

    def add(function):
        def apply(b):
            value = b.take(fits)
            if value is None:
                return
            function(b, *value)

        OPS.extend([functools.wraps(function)(apply)] * weight)
        return function

    return add


def flat(shape):
    return len(shape) == 2 and isinstance(shape[0], str)


def nodes(shape):
    return flat(shape) and shape[0] == "N"


def heads(shape):
    return len(shape) == 3 and isinstance(shape[0], str)


def wide(shape):
    return isinstance(shape[-1], int) and shape[-1] > 1


UNARY_TABLE = """
    {0}.relu() | F.elu({0}) | {0}.tanh() | {0}.sigmoid() | F.leaky_relu({0}, 0.2) | F.gelu({0}) | F.silu({0})
    -{0} | {0}.clamp(max=2).exp() | F.softplus({0}) | F.dropout({0}, 0.0, self.training) | {0} * 0.5 | {0} / 3
    2 - {0} | {0} + 1 | {0}.abs() | {0} * {0} | {0}.square() | 1 / (1 + {0}.abs()) | {0}.clamp(min=0.1)
    {0}.masked_fill({0} < 0, 0.0)
    torch.where({0} > 0, {0}, 0.1 * {0}) | {0}.clone() | {0}.contiguous() | {0}.to({0}.dtype) | torch.zeros_like({0})
    {0} * (edge_index.size(1) + 1) | {0} + {0}.mean()
"""
BINARY_TABLE = """
    {0} + {1} | {0} - {1} | {0} * {1} | torch.maximum({0}, {1}) | torch.min({0}, {1}) | {0} / (1 + {1}.abs())
    sum([{0}, {1}]) | torch.lerp({0}, {1}, 0.3) | torch.addcmul({0}, {1}, {0}) | torch.where({0} > {1}, {0}, {1})
    {0} * {1}.sigmoid() + {1} * (1 - {1}.sigmoid())
"""
JOINED_TABLE = """
    torch.stack([{0}, {1}]).amax(0) | torch.stack([{0}, {1}], -1).sum(-1) | torch.stack([{0}, {1}], 1).mean(1)
    torch.stack([{0}, {1}], dim=-1).max(dim=-1)[0] | torch.cat([{0}, {1}], 0)[: {0}.size(0)]
    torch.stack([{0}, {1}], 1)[:, 1]
    (torch.stack([{0}, {1}], 1) * torch.softmax(torch.stack([{0}, {1}], 1).sum(-1, keepdim=True), 1)).sum(1)
"""
UNARY, BINARY, JOINED = (
    [expression.strip() for line in table.strip().splitlines() for expression in line.split("|")]
    for table in (UNARY_TABLE, BINARY_TABLE, JOINED_TABLE)
)


@op(weight=4)
def unary(b, v, shape):
    b.emit(b.choose(UNARY).format(v), shape)


@op(weight=5)
def binary(b, v, shape):
    other = b.take(lambda s: s == shape)[0]
    joined = JOINED if other != v and isinstance(shape[0], str) else []
    b.emit(b.choose([*BINARY, *joined]).format(v, other), shape)


@op(lambda s: isinstance(s[-1], int), weight=6)
def linear(b, v, shape):
    width = b.choose(WIDTHS)
    bias = b.choose([True, False])
    code = b.choose(["nn.Linear({0}, {1}, bias={2})", "pyg.Linear({0}, {1}, bias={2})", "raw"])
    if code == "raw":
        b.emit(f"{v} @ {b.part(f'nn.Parameter(torch.randn({shape[-1]}, {width}) * 0.5)')}", (*shape[:-1], width))
        return
    name = b.part(code.format(shape[-1], width, bias))
    b.calls.append((name, shape[-1], width))
    b.emit(f"{name}({v})", (*shape[:-1], width))


@op(lambda s: isinstance(s[-1], int), weight=2)
def shared(b, v, shape):
    known = [call for call in b.calls if call[1] == shape[-1]]
    if known:
        name, _, width = b.choose(known)
        b.emit(f"{name}({v})", (*shape[:-1], width))


@op(flat, weight=2)
def two_layers(b, v, shape):
    width, out = b.choose(WIDTHS), b.choose(WIDTHS)
    norm = b.choose(["", f"nn.BatchNorm1d({width}), "])
    name = b.part(
        f"nn.Sequential(nn.Linear({shape[1]}, {width}), {norm}nn.ReLU(inplace=True), nn.Linear({width}, {out}))"
    )
    b.calls.append((name, shape[1], out))
    b.emit(f"{name}({v})", (shape[0], out))


@op(lambda s: isinstance(s[0], str), weight=3)
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


@op(lambda s: wide(s) and isinstance(s[0], str), weight=5)
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
        (f"{v}.repeat_interleave(2, dim=-1)", 2 * width),
        (f"{v}[..., {cut}, None]", 1),
        (f"{v}.index_select(-1, INDEX)", 3),
    ])  # fmt: skip
    if "INDEX" in expression:
        expression = expression.replace("INDEX", b.part(f"torch.randint({width}, (3,))"))
    b.emit(expression, (*lead, result))


@op(flat, weight=8)
def to_heads(b, v, shape):
    counts = [h for h in (2, 3, 4) if shape[1] % h == 0 and shape[1] > h]
    if not counts:
        return
    h = b.choose(counts)
    c = shape[1] // h
    form = b.choose([
        "view(-1, {0}, {1})", "reshape(-1, {0}, {1})", "unflatten(1, ({0}, {1}))", "view({2}.size(0), {0}, {1})",
        "view(-1, {1}, {0}).transpose(1, 2)",
    ])  # fmt: skip
    b.emit(f"{v}.{form.format(h, c, v)}", (shape[0], h, c))


@op(heads, weight=12)
def from_heads(b, v, shape):
    rows, h, c = shape
    head = b.choose(range(h))
    b.emit(*b.choose([
        (f"{v}.flatten(1)", (rows, h * c)),
        (f"{v}.reshape(-1, {h * c})", (rows, h * c)),
        (f"{v}.mean(dim=1)", (rows, c)),
        (f"{v}.sum(1)", (rows, c)),
        (f"{v}.amax(1)", (rows, c)),
        (f"{v}.sum(-1)", (rows, h)),
        (f"{v}.mean(-1)", (rows, h)),
        (f"{v}.amax(-1)", (rows, h)),
        (f"{v} * {v}.mean(-1, keepdim=True)", shape),
        (f"{v} - {v}.amin(1, keepdim=True)", shape),
        (f"{v}[:, {head}]", (rows, c)),
        (f"{v}.transpose(1, 2)", (rows, c, h)),
        (f"{v}.permute(0, 2, 1)", (rows, c, h)),
        (f"{v}.transpose(0, 1)", (h, rows, c)),
        (f"torch.stack({v}.unbind(1)[::-1], 1)", shape),
        (f"torch.softmax({v}, 1)", shape),
        (f"{v}.sum((1, 2)).unsqueeze(-1)", (rows, 1)),
        (f"F.normalize({v}, dim=-1)", shape),
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
        (f"({v} * {parameter}).sum(-1)", (rows, h)),
        (f"{v} * {parameter}", shape),
        (f"{v} + {parameter}", shape),
    ]))  # fmt: skip


@op(lambda s: len(s) == 3 and isinstance(s[0], int), weight=3)
def heads_in_front(b, v, shape):
    h, rows, c = shape
    head = b.choose(range(h))
    b.emit(*b.choose([
        (f"{v}.permute(1, 0, 2)", (rows, h, c)),
        (f"{v}.mean(0)", (rows, c)),
        (f"{v}[{head}]", (rows, c)),
        (f"torch.cat(list({v}), -1)", (rows, h * c)),
    ]))  # fmt: skip


@op(lambda s: s[-1] == 1 and isinstance(s[0], str), weight=2)
def gate(b, v, shape):
    other = b.take(lambda s: s[:-1] == shape[:-1] and wide(s))
    if other is not None:
        form = b.choose(["{0} * {1}", "{0} + {1}", "{0}.sigmoid() * {1}", "{0}.expand_as({1}) * {1}"])
        b.emit(form.format(v, other[0]), other[1])


@op(lambda s: isinstance(s[0], str) and wide(s))
def make_gate(b, v, shape):
    b.emit(f"{v}.{b.choose(['sum', 'mean', 'amax'])}(-1, keepdim=True)", (*shape[:-1], 1))


@op(heads)
def head_gate(b, v, shape):
    other = b.take(lambda s: s == (shape[0], shape[1]))
    if other is not None:
        b.emit(f"{v} * {other[0]}.unsqueeze(-1)", shape)
    other = b.take(lambda s: s == (shape[0], shape[2]))
    if other is not None:
        b.emit(f"{v} + {other[0]}[:, None]", shape)


@op(flat, weight=4)
def norm(b, v, shape):
    code = b.choose([
        "nn.BatchNorm1d({0})", "pyg.BatchNorm({0})", "nn.LayerNorm({0})", "pyg.GraphNorm({0})", "nn.PReLU({0})",
        "nn.PReLU()", "pyg.LayerNorm({0})", "pyg.PairNorm()", "pyg.InstanceNorm({0})", "pyg.MeanSubtractionNorm()",
        "nn.Softmax(-1)", "nn.BatchNorm1d({0}, affine=False)", "pyg.GraphSizeNorm()",
    ])  # fmt: skip
    name = b.part(code.format(shape[1]))
    b.calls.append((name, shape[1], shape[1]))
    b.emit(f"{name}({v})", shape)


@op(heads, weight=4)
def norm_heads(b, v, shape):
    code = b.choose([
        "nn.BatchNorm1d({0})", "nn.LayerNorm({1})", "nn.LayerNorm([{0}, {1}])", "nn.PReLU({0})", "nn.GroupNorm(1, {0})",
        "nn.InstanceNorm1d({0}, affine=True)", "nn.BatchNorm1d({0}, track_running_stats=False)",
    ])  # fmt: skip
    if shape[2] > 1:
        b.emit(f"{b.part(code.format(*shape[1:]))}({v})", shape)


@op(flat)
def scale(b, v, shape):
    own = b.choose([(shape[1],), (1, shape[1]), (1,), ()])
    code = f"nn.Parameter(torch.randn({list(own)}))"
    b.emit(f"{v} {b.choose('*+-')} {b.part(code)}", shape)


@op(lambda s: s[0] == "N", weight=3)
def gather(b, v, shape):
    b.emit(b.choose(["{0}[edge_index[0]]", "{0}.index_select(0, edge_index[1])"]).format(v), ("E", *shape[1:]))


@op(lambda s: s[0] == "E", weight=5)
def aggregate(b, v, shape):
    reduce = b.choose(["sum", "mean", "max", "min"])
    b.emit(f"scatter({v}, edge_index[1], 0, dim_size=x.size(0), reduce='{reduce}')", ("N", *shape[1:]))


@op(lambda s: nodes(s) and wide(s), weight=2)
def edge_attention(b, v, shape):
    score = b.part(f"nn.Linear({2 * shape[1]}, 1)")
    b.lines.append(f"pair = torch.cat([{v}[edge_index[0]], {v}[edge_index[1]]], -1)")
    b.lines.append(f"share = pyg_softmax(F.leaky_relu({score}(pair)), edge_index[1], num_nodes=x.size(0))")
    b.emit(f"scatter(share * {v}[edge_index[0]], edge_index[1], 0, dim_size=x.size(0), reduce='sum')", shape)


@op(lambda s: s[0] == "N", weight=3)
def rows(b, v, shape):
    tail = "[..., None]" * (len(shape) - 2)
    expression = b.choose([
        "{0} - {0}.mean(0, keepdim=True)", "{0}.flip(0)", "torch.flip({0}, [0])", "torch.roll({0}, 1, 0)",
        "{0}.flip(0, 1)", "{0}[x[:, 0].argsort()]", "{0}[x[:, 0].argsort(), ...]",
        "{0}[x[:, 0].argsort(), None].squeeze(1)",         "{0} * (x.size(0) // 7)",
        "{0}[torch.stack([batch, batch.flip(0)], 1)].sum(1)", "{0}.cumsum(0)",
        "{0} * (x[:, :1] > 0)" + tail, "torch.cat([{0}[1:], {0}[:1]], 0)",
    ])  # fmt: skip
    b.emit(expression.format(v), shape)


@op(lambda s: s[0] == "N" and isinstance(s[1], int) and s[1] > 1, weight=2)
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


@op(nodes)
def pool(b, v, shape):
    b.emit(f"pyg.global_{b.choose(['mean', 'add', 'max'])}_pool({v}, batch)", ("B", shape[1]))


@op(lambda s: s[0] == "B")
def unpool(b, v, shape):
    b.emit(f"{v}[batch]", ("N", *shape[1:]))


@op(nodes, weight=10)
def conv(b, v, shape):
    c, o, h = shape[1], b.choose(WIDTHS), b.choose([2, 1, 3])
    code, width, call = b.choose([
        (f"pyg.GCNConv({c}, {o})", o, "{0}({1}, edge_index)"),
        (f"pyg.GCNConv({c}, {o}, bias=False)", o, "{0}({1}, edge_index, edge_attr[:, 0].abs())"),
        (f"pyg.SAGEConv({c}, {o})", o, "{0}({1}, edge_index)"),
        (f"pyg.SAGEConv({c}, {o}, aggr='max', project=True)", o, "{0}({1}, edge_index)"),
        (f"pyg.SAGEConv({c}, {o}, aggr='sum', normalize=True)", o, "{0}({1}, edge_index)"),
        (f"pyg.GATConv({c}, {o}, heads={h})", o * h, "{0}({1}, edge_index)"),
        (f"pyg.GATConv({c}, {o}, heads={h}, concat=False, edge_dim=3)", o, "{0}({1}, edge_index, edge_attr)"),
        (f"pyg.GATConv({c}, {o}, heads={h}, residual=True)", o * h, "{0}({1}, edge_index)"),
        (f"pyg.GATv2Conv({c}, {o}, heads={h})", o * h, "{0}({1}, edge_index)"),
        (f"pyg.GATv2Conv({c}, {o}, heads={h}, share_weights=True, concat=False)", o, "{0}({1}, edge_index)"),
        (f"pyg.GATv2Conv({c}, {o}, heads={h}, edge_dim=3, residual=True)", o * h, "{0}({1}, edge_index, edge_attr)"),
        (f"pyg.TransformerConv({c}, {o}, heads={h})", o * h, "{0}({1}, edge_index)"),
        (f"pyg.TransformerConv({c}, {o}, heads={h}, beta=True, edge_dim=3)", o * h, "{0}({1}, edge_index, edge_attr)"),
        (f"pyg.TransformerConv({c}, {o}, heads={h}, concat=False, bias=False)", o, "{0}({1}, edge_index)"),
        (f"pyg.GINConv(nn.Sequential(nn.Linear({c}, {h * 2}), nn.ReLU(), nn.Linear({h * 2}, {o})), train_eps=True)", o,
         "{0}({1}, edge_index)"),
        (f"pyg.PNAConv({c}, {o}, ['mean', 'max', 'min', 'sum'], ['identity', 'linear'], torch.tensor([1, 3, 2]))", o,
         "{0}({1}, edge_index)"),
        (f"pyg.GraphConv({c}, {o})", o, "{0}({1}, edge_index)"),
        ("pyg.SimpleConv()", c, "{0}({1}, edge_index)"),
    ])  # fmt: skip
    b.emit(call.format(b.part(code), v), ("N", width))


@op(lambda s: nodes(s) and wide(s))
def jump(b, v, shape):
    other = b.take(lambda s: s == shape)
    mode = b.choose(["max", "cat", "lstm"])
    if other[0] != v:
        width = shape[1] * (2 if mode == "cat" else 1)
        b.emit(f"{b.part(f'pyg.JumpingKnowledge({mode!r}, {shape[1]}, 2)')}([{v}, {other[0]}])", ("N", width))


@op(lambda s: isinstance(s[0], str), weight=3)
def in_place(b, v, shape):
    name, _ = b.emit(f"{v} * 1.5", shape)
    other = b.take(lambda s: s == shape)[0]
    column = ", ".join(":" for _ in shape[:-1]) + ", 0"
    change = b.choose(["{0}.relu_()", "{0}.add_({1})", "{0} += {1}", "{0} *= 2", "{0}.mul_({1})", "{0}.clamp_(min=-1)",
                       "F.elu_({0})", f"{{0}}[{column}] = 0", "{0}.sub_({1}, alpha=2)", "{0}.div_(4)"])  # fmt: skip
    b.lines.append(change.format(name, other if other != name else 1))


linear_op, conv_op = (next(o for o in OPS if o.__name__ == name) for name in ("linear", "conv"))


@st.composite
def programs(draw, steps=12, zeros=True):
    b = Builder(draw)
    b.choose([linear_op, conv_op])(b)
    for _ in range(draw(st.integers(2, steps))):
        known = len(b.lines)
        for _ in range(4):  # an operation that fits no value writes nothing
            b.choose(OPS)(b)
            if len(b.lines) > known:
                break
    if b.draw(st.integers(0, 3)) > 0:
        value = b.take(lambda s: isinstance(s[-1], int))
        b.emit(f"{b.part(f'nn.Linear({value[1][-1]}, 2)')}({value[0]})", (*value[1][:-1], 2))
    outputs = [b.values[-1][0]]
    for _ in range(b.draw(st.sampled_from([0, 0, 0, 1]))):
        outputs.append(b.take()[0])
    result = outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})"
    return Program(b.parts, b.lines, result, draw(st.integers(0, 2**16)), zeros)


# Checking ---------------------------------------------------------------------------------------------------------


def graph(nodes, edges, graphs, seed=0):
    """Node features, edges (with self loops and isolated nodes, as they come), edge features and graph of each node."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(nodes, FEATURES, generator=g, dtype=torch.float64)
    edge_index = torch.randint(nodes, (2, edges), generator=g)
    edge_attr = torch.randn(edges, EDGE_FEATURES, generator=g, dtype=torch.float64)
    return x, edge_index, edge_attr, torch.arange(nodes) * graphs // nodes


EXAMPLE = graph(8, 21, 2)
OTHERS = (graph(6, 15, 1, seed=1), graph(17, 60, 3, seed=2))


def assert_same(expected, found, what):
    expected, found = (e if isinstance(e, tuple) else (e,) for e in (expected, found))
    assert len(expected) == len(found), what
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape, f"{what}: shape {list(a.shape)} -> {list(b.shape)}"
        if not a.isfinite().all():
            continue  # promised for finite values
        gap = (a - b).abs().max().item() / max(1.0, a.abs().max().item()) if a.numel() else 0.0
        assert gap <= 1e-10, f"{what}: WRONG OUTPUT by {gap:.3g}"


def assert_equal(model, other, what):
    with torch.no_grad():
        for arguments in OTHERS:
            assert_same(model(*arguments), other(*arguments), f"{what}, {len(arguments[0])} nodes")


def assert_equal_in_training(model, compacted):
    """In train(): batch norms use the statistics of the batch. Dropout is 0 everywhere."""
    try:
        model, compacted = copy.deepcopy(model).train(), copy.deepcopy(compacted).train()
    except upscale_fx.ModeError:
        return  # says itself that it cannot be trained
    with torch.no_grad():
        assert_same(model(*OTHERS[1]), compacted(*OTHERS[1]), "compacted, in train()")


def runs(model):
    """Whether the model itself is sound: it runs and its outputs are not NaN."""
    with torch.no_grad():
        result = model(*EXAMPLE)
    return all(r.isfinite().all() for r in (result if isinstance(result, tuple) else (result,)))


@other_seed
@random_programs
@given(programs())
def test_traced_and_compacted_equal_the_model(program):
    model = program.build()
    if not runs(model):
        return
    try:
        traced = upscale_fx.trace(model, EXAMPLE)
    except upscale_fx.TraceError:
        assert any("//" in line for line in program.lines)  # a row count that is rounded may be refused, not got wrong
        return
    assert_equal(model, traced, "traced")
    compacted = upscale_fx.compact(traced)
    assert_equal(model, compacted, "compacted")
    assert_equal_in_training(model, compacted)
    assert set(compacted.state_dict()) <= set(model.state_dict()) | {
        n for n in compacted.state_dict() if "_folded" in n
    }


@other_seed
@random_programs
@given(
    programs(zeros=False),
    st.sampled_from([0.5, 0.25, 0.75, 0.4, 0.9]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["layer", "global"]),
    st.sampled_from(["l2", "l1", "random", "fpgm", "lamp"]),
    st.sampled_from([1, 1, 2]),
)
def test_pruned_equals_masked(program, amount, constrained, inputs, scope, criterion, round_to):
    model = program.build()
    if not runs(model):
        return
    options = {
        "constrained": constrained,
        "inputs": inputs,
        "scope": scope,
        "criterion": criterion,
        "round_to": round_to,
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        masked = upscale_fx.mask(model, amount, **options, example_inputs=EXAMPLE)
    except upscale_fx.TraceError:
        assert any("//" in line for line in program.lines)
        return
    except upscale_fx.NothingToPruneError:
        with pytest.raises(upscale_fx.NothingToPruneError):
            upscale_fx.prune(model, amount, **options, example_inputs=EXAMPLE)
        return
    changed = any(not torch.equal(masked.state_dict()[name], value) for name, value in before.items())
    assert changed, "mask returned the model as it was"
    try:
        pruned = upscale_fx.prune(model, amount, **options, example_inputs=EXAMPLE)
    except upscale_fx.NothingToPruneError:  # masked, but padding and barriers keep every channel
        compacted = upscale_fx.compact(masked, example_inputs=EXAMPLE)
        sizes = {name: value.shape for name, value in upscale_fx.trace(model, EXAMPLE).state_dict().items()}
        assert {name: value.shape for name, value in compacted.state_dict().items()} == sizes
        return
    assert_equal(masked, pruned, "pruned")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items()), "model was changed"
