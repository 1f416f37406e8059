"""Which kernels run, where they read, and on how many threads."""

import os

import numpy as np
import pytest
import torch

from tests.operators.cases import CASES, random_graph
from upscale_fx import operators
from upscale_fx.operators import kernels
from upscale_fx.operators.kernels import choice


@pytest.fixture
def compiled():
    pytest.importorskip("numba")
    with kernels.using("numba"):
        yield


@pytest.fixture
def unresolved():
    """Choose again, as if nothing were asked for, and forget it afterwards."""
    kernels.choose_again()
    with kernels.using(""):
        kernels.choose_again()
        yield
    kernels.choose_again()


def test_the_choice_can_be_forced():
    with kernels.using("torch"):
        assert kernels.name() == "torch"
    with pytest.raises(ValueError, match="no kernels are called 'cuda': set UPSCALE_FX_KERNELS to 'torch' or 'numba'"):
        kernels.using("cuda").__enter__()


def test_the_environment_chooses_kernels_and_memory_and_nothing_is_compiled_early(fresh):
    code = """
import sys, torch, warnings
warnings.simplefilter("error", UserWarning)
import upscale_fx
from upscale_fx import operators
from upscale_fx.operators import kernels
from upscale_fx.operators.kernels import memory
assert "upscale_fx.operators.kernels.jit" not in sys.modules
operators.spmm(torch.tensor([0, 1]), None, None, torch.ones(1, 1), "sum")
assert "upscale_fx.operators.kernels.jit" not in sys.modules
memory.empty((4096, 1024), torch.zeros(1))
print(kernels.name(), memory.kept_bytes())
"""
    environment = {choice.VARIABLE: "torch", "UPSCALE_FX_KEEP_MEMORY": "0"}
    assert fresh.run(code, environment=environment) == ["torch 0"]


def cannot_import(missing):
    """An ``import_module`` for which one module is missing."""

    def refuse(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    return refuse


@pytest.mark.parametrize("missing", ["numba", "llvmlite.binding"])
def test_without_numba_torch_kernels_run(monkeypatch, unresolved, missing):
    monkeypatch.setattr(choice.importlib, "import_module", cannot_import(missing))
    assert kernels.name() == "torch"
    with pytest.raises(ImportError):
        kernels.using("numba").__enter__()


def test_a_mistake_of_ours_is_not_taken_for_a_missing_numba(monkeypatch, unresolved):
    monkeypatch.setattr(choice.importlib, "import_module", cannot_import("upscale_fx.operators.kernels.compiled"))
    with pytest.raises(ImportError, match=r"upscale_fx\.operators\.kernels"):
        kernels.name()


def test_slices_are_read_in_place(compiled):
    from upscale_fx.operators.kernels.arrays import strided_rows

    wide = torch.randn(6, 4, 10)
    for view, per_head in ((wide[:, :, 2:7], True), (wide[:, 1], False), (wide[:, 1:3], False), (wide[..., 3:4], True)):
        found = strided_rows(view, per_head=per_head)
        assert np.shares_memory(found.flat, wide.numpy())
        index = np.ix_(*(np.arange(size) for size in (6, found.heads, found.channels)))
        read = found.flat[index[0] * found.row + index[1] * found.head + index[2]]
        assert torch.from_numpy(read).equal(view.reshape(6, found.heads, found.channels))
    assert strided_rows(wide[:, 1:3], per_head=False).heads == 1
    assert not np.shares_memory(strided_rows(wide.transpose(1, 2), per_head=True).flat, wide.numpy())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_results_do_not_depend_on_threads(case, compiled, monkeypatch):
    from upscale_fx.operators.kernels import threads

    monkeypatch.setattr(threads, "SMALL", 0)
    monkeypatch.setattr("tests.operators.cases.CHANNELS", 70)
    graph = random_graph(60, 50, 400)
    inputs = case.inputs(graph)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = case.run(graph, *inputs)
            grads = torch.autograd.grad(out.sin().sum(), [x for x in inputs if x is not None])
            results.append([out, *grads])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(a.equal(b) for a, b in zip(results[0], result, strict=True))


def test_errors_reach_the_caller_from_any_thread(compiled, monkeypatch):
    from upscale_fx.operators.kernels import threads

    monkeypatch.setattr(threads, "SMALL", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    graph = random_graph(50, 50, 1000)
    for position in (0, 500, 999):
        col = graph.col.clone()
        col[position] = 50
        with pytest.raises(IndexError, match="col names row 50, but there are only 50 rows"):
            operators.spmm(graph.rowptr, col, None, torch.randn(50, 4), "sum")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_gets_threads_of_its_own(compiled, fresh):
    code = """
import os, torch, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from upscale_fx.operators.kernels import threads
from upscale_fx import operators
threads.SMALL = 0
torch.set_num_threads(2)
x = torch.randn(200, 8)
run = lambda: operators.spmm(torch.arange(201), torch.arange(200), None, x, "sum").equal(x)
assert run()
child = os.fork()
if child == 0:
    os._exit(0 if run() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert fresh.run(code) == ["0"]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
def test_dtypes_without_sparse_kernels(reduce):
    graph = random_graph(9, 7, 40)
    weight, x = torch.randint(1, 4, (40,)), torch.randint(-5, 6, (7, 3)) * 60
    expected = operators.spmm(graph.rowptr, graph.col, weight, x.double(), reduce)
    got = operators.spmm(graph.rowptr, graph.col, weight, x, reduce)
    assert got.dtype == torch.int64
    assert got.equal(expected.floor().long())
