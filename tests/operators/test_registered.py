"""Operators are citizens of torch: fake tensors, gradients, torch.compile."""

import pytest
import torch

from tests.operators.cases import CASES, HEADS, make_graph, random_graph
from tests.selection import every
from upscale_fx import operators
from upscale_fx.operators import kernels

NAMES = {case.name: case for case in CASES}
LINEAR = [case for case in CASES if case.name.startswith(("spmm sum", "spmm mean", "spmm_transposed", "edge_dot"))]


@pytest.fixture(autouse=True)
def _torch_kernels():
    """What is tested here is the same for both; these compile nothing."""
    with kernels.using("torch"):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_first_derivatives(case):
    graph = make_graph("random")
    inputs = [value for value in case.inputs(graph) if value is not None]
    missing = [None] * (len(case.axes) - len(inputs))
    assert torch.autograd.gradcheck(lambda *given: case.run(graph, *missing, *given), inputs, fast_mode=True)


@pytest.mark.parametrize("case", every(2, LINEAR), ids=lambda case: case.name)
def test_second_derivatives(case):
    graph = make_graph("random")
    inputs = [value for value in case.inputs(graph) if value is not None]
    missing = [None] * (len(case.axes) - len(inputs))
    assert torch.autograd.gradgradcheck(lambda *given: case.run(graph, *missing, *given), inputs, fast_mode=True)


@pytest.mark.parametrize(
    "name", ["spmm max none mc", "edge_add 0.2", "edge_additive_dot", "edge_softmax eh", "attend e mc"]
)
def test_missing_second_derivatives_raise(name):
    graph = make_graph("random")
    inputs = NAMES[name].inputs(graph)
    wanted = [value for value in inputs if value is not None]
    grads = torch.autograd.grad(NAMES[name].run(graph, *inputs).square().sum(), wanted, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives exist for"):
        sum(grad.sum() for grad in grads).backward()


def samples():
    """Arguments of every registered operator."""
    g = make_graph("random")
    edges, (n, m) = g.row.numel(), (g.num_rows, g.num_cols)
    torch.manual_seed(4)

    def real(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    scores, left, right, x = real(edges, HEADS), real(n, HEADS, 4), real(m, HEADS, 4), real(m, 4)
    softmax = torch.rand(edges, HEADS, dtype=torch.float64)
    ops = torch.ops.upscale_fx
    largest = operators.spmm(g.rowptr, g.col, None, x, "max").detach()
    return {
        "csr": (ops.csr, (g.row.flip(0), n)),
        "spmm": (ops.spmm, (g.rowptr, g.col, scores, right, "mean")),
        "spmm without weights": (ops.spmm, (g.rowptr, g.col, None, x, "sum")),
        "spmm of edges": (ops.spmm, (g.rowptr, None, None, real(edges, 4), "max")),
        "extreme_backward": (
            ops.extreme_backward,
            (g.rowptr, g.col, None, x.detach(), largest, torch.rand_like(largest)),
        ),
        "spmm_transposed": (ops.spmm_transposed, (g.rowptr, g.col, scores, left, m)),
        "edge_dot": (ops.edge_dot, (g.rowptr, g.col, left, right)),
        "edge_add": (ops.edge_add, (g.rowptr, g.col, real(n, HEADS), real(m, HEADS), 0.2)),
        "edge_add_backward": (
            ops.edge_add_backward,
            (g.rowptr, g.col, softmax[:n], softmax[:m], 0.2, softmax),
        ),
        "edge_additive_dot": (ops.edge_additive_dot, (g.rowptr, g.col, left, right, real(HEADS, 4), 0.2)),
        "edge_additive_dot_backward": (
            ops.edge_additive_dot_backward,
            (g.rowptr, g.col, left.detach(), right.detach(), torch.rand(HEADS, 4).double(), 0.2, softmax),
        ),
        "edge_softmax": (ops.edge_softmax, (g.rowptr, scores)),
        "edge_softmax_backward": (ops.edge_softmax_backward, (g.rowptr, softmax, softmax)),
        "attend": (ops.attend, (g.rowptr, g.col, scores, right)),
    }


@pytest.mark.parametrize("name", every(2, samples()))
def test_opcheck(name):
    operator, arguments = samples()[name]
    torch.library.opcheck(operator.default, arguments)


def test_opcheck_covers_all_operators():
    registered = {
        name.removeprefix("upscale_fx::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("upscale_fx::")
    }
    assert registered == {name.split()[0] for name in samples()}


def layer(row, col, weight, x, left, right):
    """Two layers that use most operators, from unsorted edges."""
    rowptr, order = operators.csr(row, x.size(0))
    col = col.index_select(0, order)
    x = operators.spmm(rowptr, col, weight.index_select(0, order), x, "mean") + operators.spmm(
        rowptr, col, None, x, "max"
    )
    heads = x.view(-1, 2, x.size(1) // 2)
    scores = operators.edge_add(rowptr, col, (heads * left).sum(-1), (heads * right).sum(-1), 0.2)
    return operators.attend(rowptr, col, scores + operators.edge_dot(rowptr, col, heads, heads), heads)


def test_torch_compile_with_dynamic_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for num_nodes, num_edges in ((6, 20), (9, 41), (30, 77)):
        graph = random_graph(num_nodes, num_nodes, num_edges)
        order = torch.randperm(num_edges)
        torch.manual_seed(5)
        inputs = [torch.randn(shape, requires_grad=True) for shape in ((num_edges,), (num_nodes, 8), (2, 4), (2, 4))]
        with torch._dynamo.config.patch(error_on_recompile=num_nodes > 6):
            got, expected = (f(graph.row[order], graph.col[order], *inputs) for f in (compiled, layer))
        torch.testing.assert_close(got, expected)
        for mine, theirs in zip(
            *(torch.autograd.grad(out.sin().sum(), inputs) for out in (got, expected)), strict=True
        ):
            torch.testing.assert_close(mine, theirs)
