"""Fused operators equal gathers and scatters, on compiled kernels and on torch's."""

import pytest
import torch

from tests.operators.cases import CASES, GRAPHS, make_graph, random_graph
from upscale_fx import operators
from upscale_fx.operators import kernels


@pytest.fixture(params=["numba", "torch"])
def kernel(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    with kernels.using(request.param):
        yield request.param


def outcome(function, graph, inputs):
    """Output and gradients."""
    torch.manual_seed(3)
    out = function(graph, *inputs)
    wanted = [value for value in inputs if value is not None]
    return [out, *torch.autograd.grad(out, wanted, torch.randn_like(out))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("graph", GRAPHS)
def test_values_and_gradients(case, graph, kernel):
    graph = make_graph(graph)
    for strided in (False, True):
        inputs = case.inputs(graph, strided=strided)
        got, expected = (outcome(function, graph, inputs) for function in (case.run, case.reference))
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_per_channel(case, kernel):
    graph = make_graph("random")
    inputs = [None if x is None else x[..., :0] if x.size(-1) == 5 else x for x in case.inputs(graph)]
    for mine, theirs in zip(
        *(outcome(function, graph, inputs) for function in (case.run, case.reference)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("reduce", ["max", "min"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_at_ties_is_that_of_scatter_reduce(reduce, weighted, kernel):
    graph = random_graph(8, 5, 60)
    x = torch.randint(-1, 2, (5, 6)).double().requires_grad_()
    weight = torch.randint(1, 3, (60,)).double().requires_grad_() if weighted else None
    case = next(c for c in CASES if c.name == f"spmm {reduce} {'e' if weighted else 'none'} mc")
    got, expected = (outcome(function, graph, [weight, x]) for function in (case.run, case.reference))
    assert (expected[0] == 0).any()
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_those_of_eager(case, value, kernel):
    graph = make_graph("random")
    inputs = case.inputs(graph)
    with torch.no_grad():
        for x in inputs:
            if x is not None:
                x.view(-1)[::7] = value
        got, expected = case.run(graph, *inputs), case.reference(graph, *inputs)
    torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_single_precision(reduce, kernel):
    graph = make_graph("random")
    weight, x = torch.rand(graph.row.numel()), torch.rand(graph.num_cols, 70)
    expected = operators.spmm(graph.rowptr, graph.col, weight.double(), x.double(), reduce)
    torch.testing.assert_close(operators.spmm(graph.rowptr, graph.col, weight, x, reduce), expected.float())
    assert operators.spmm(graph.rowptr, graph.col, weight.double(), x, reduce).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_single(dtype):
    rowptr, col, x = torch.tensor([0, 4096]), torch.zeros(4096, dtype=torch.int64), torch.ones(1, 2, dtype=dtype)
    assert operators.spmm(rowptr, col, None, x, "sum").tolist() == [[4096, 4096]]
    assert operators.spmm_transposed(rowptr, col, None, x, 1).tolist() == [[4096, 4096]]
    assert operators.edge_dot(rowptr[:1].repeat(2), col[:0], x[None], x[None]).shape == (0, 1)
    scores = torch.zeros(4096, dtype=dtype, requires_grad=True)
    torch.testing.assert_close(operators.attend(rowptr, col, scores, x), x)
    wide = torch.ones(1, 1, 4096, dtype=dtype, requires_grad=True)
    product = operators.edge_dot(rowptr, col, wide, wide)
    assert product.unique().tolist() == [4096]
    product.sum().backward()
    assert wide.grad is not None
    assert wide.grad.unique().tolist() == [8192]
    ends = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    operators.edge_add(rowptr, col, ends, ends.detach(), 0.2).sum().backward()
    assert ends.grad is not None
    assert ends.grad.item() == 4096


def test_csr_sorts_stably(kernel):
    index = torch.tensor([2, 0, 2, 4, 0])
    rowptr, order = operators.csr(index, 6)
    assert rowptr.tolist() == [0, 2, 2, 4, 4, 5, 5]
    assert order.tolist() == [1, 4, 0, 2, 3]
    many = torch.randint(50, (3000,))
    rowptr, order = operators.csr(many, 50)
    assert order.equal(many.argsort(stable=True))
    assert rowptr.diff().equal(many.bincount(minlength=50))
    rowptr, order = operators.csr(index[:0], 0)
    assert rowptr.tolist() == [0]
    assert order.tolist() == []
    assert operators.csr(index[::2], 5)[1].tolist() == [2, 0, 1]


@pytest.mark.parametrize("wrong", [-1, 5, 1 << 40])
def test_targets_that_do_not_exist(wrong, kernel):
    with pytest.raises(IndexError, match=rf"index {wrong} is out of bounds: targets must be in \[0, 5\)"):
        operators.csr(torch.tensor([0, wrong, 4]), 5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_indices_that_do_not_exist(case, kernel):
    graph = make_graph("random")
    inputs = case.inputs(graph)
    rowptr, col = graph.rowptr, graph.col
    for wrong in (-1, graph.num_cols, 1 << 40):
        if "softmax" not in case.name:
            graph.col = col.clone()
            graph.col[3] = wrong
            with pytest.raises(IndexError, match=f"col names row {wrong}, but there are only 7 rows to read"):
                case.run(graph, *inputs)
    graph.col = col
    for position, wrong in ((0, 1), (3, 1 << 40), (4, -5), (9, 39), (9, 41)):
        graph.rowptr = rowptr.clone()
        graph.rowptr[position] = wrong
        with pytest.raises(IndexError, match="rowptr must ascend from 0 to the number of edges"):
            case.run(graph, *inputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r, c, x: operators.spmm(r, c, None, x, "prod"),
            "reduce must be one of sum, mean, max, min, got 'prod'",
        ),
        (lambda r, c, x: operators.spmm(r, c, None, x[:, 0], "sum"), r"x must be \[M, C\] or have more trailing axes"),
        (
            lambda r, c, x: operators.spmm(r.int(), c, None, x, "sum"),
            r"rowptr must be int64 \[N \+ 1\], got int32 \[3\]",
        ),
        (lambda r, c, x: operators.spmm(r, c.int(), None, x, "sum"), r"col must be int64 \[E\], got int32 \[3\]"),
        (lambda r, c, x: operators.spmm(r, c, x[:, 0], x, "sum"), r"weight must be \[E\] or, .* got float32 \[4\]"),
        (lambda r, c, x: operators.spmm_transposed(r, c, None, x, 4), r"g must be \[2, 6\], got float32 \[4, 6\]"),
        (lambda r, c, x: operators.edge_dot(r, c, x, x), r"right must be \[M, H, C\], got float32 \[4, 6\]"),
        (lambda r, c, x: operators.edge_add(r, c, x, x, 0.2), r"left must be \[2, 6\], got float32 \[4, 6\]"),
        (
            lambda r, c, x: operators.edge_softmax(r, x[None]),
            r"scores must be \[E\] or \[E, H\], got float32 \[1, 4, 6\]",
        ),
        (lambda r, c, x: operators.attend(r, c, x, x), r"weight must be .* \[E, H\]"),
        (lambda r, c, x: operators.csr(c.float(), 2), r"index must be int64 \[E\], got float32 \[3\]"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), torch.randn(4, 6))
