"""Where numba is missing, broken or cannot compile: torch's kernels run, and one warning says so."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

import upscale_fx
from tests.operators.cases import random_graph
from upscale_fx import operators
from upscale_fx.__main__ import main
from upscale_fx.errors import CompilationError, UpscaleWarning
from upscale_fx.models import SAGE
from upscale_fx.operators import kernels
from upscale_fx.operators.kernels import choice, torch_kernels


@pytest.fixture
def unresolved():
    """Choose again, as if nothing were asked for, and forget it afterwards."""
    kernels.choose_again()
    with kernels.using(""):
        kernels.choose_again()
        yield
    kernels.choose_again()


@pytest.fixture
def import_fails(unresolved, monkeypatch):
    """Let the import of the compiled kernels end in an error that a module raises."""

    def fail(error, module="importlib"):
        def refuse(name):
            space = {"__name__": module, "error": error}
            exec("def load():\n    raise error", space)
            space["load"]()

        monkeypatch.setattr(choice.importlib, "import_module", refuse)
        kernels.choose_again()

    return fail


@pytest.fixture
def told():
    """All warnings, in the order they came."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield record


def run_operators(x):
    """Both ways in which kernels are chosen, and a gradient."""
    rowptr, order = operators.csr(torch.tensor([1, 0, 1]), 2)
    operators.edge_softmax(rowptr, x[:, :1])
    operators.spmm(rowptr, order, None, x, "max").sum().backward()
    return operators.spmm(rowptr, order, None, x, "sum")


def features():
    return torch.arange(6.0).view(3, 2).requires_grad_()


# Numba that cannot be imported ---------------------------------------------------------------------------------------


def test_a_missing_numba_is_told_once_with_its_cost_and_its_remedy(import_fails, told):
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    assert kernels.name() == "torch"
    assert not told, "who asks for the name is told nothing else"
    for _ in range(3):
        assert run_operators(features()).tolist() == [[2, 3], [4, 6]]
    (warning,) = told
    assert issubclass(warning.category, UpscaleWarning)
    assert str(warning.message) == (
        "numba is not installed, so upscale_fx runs on torch's kernels, which are slower: on 2 cores, a graph of "
        "169,000 nodes and 2.3 million edges and a GCN with 75 % of its channels removed, they were 9x as fast as PyG "
        "where numba's are 20x and more. `pip install numba` makes it fast, UPSCALE_FX_KERNELS=torch in the "
        "environment silences this"
    )


NO_LLVM, NO_NAME = "No module named 'llvmlite'", "cannot import name 'cgutils'"
WRONG_NUMPY = "Numba needs NumPy 2.4 or less. Got NumPy 2.5."


@pytest.mark.parametrize(
    ("error", "module", "reason"),
    [
        (
            ModuleNotFoundError("No module named 'llvmlite'", name="llvmlite"),
            "numba.core",
            "No module named 'llvmlite'",
        ),
        (
            ImportError("cannot import name 'cgutils'", name="numba.core"),
            "numba.x",
            "cannot import name 'cgutils'",
        ),
        (ImportError(WRONG_NUMPY), "numba", WRONG_NUMPY.rstrip(".")),
        (ImportError("no such symbol", name="numpy"), "numba.np", "no such symbol"),
        (OSError("Could not load libllvmlite.so\nand more"), "llvmlite.binding.ffi", "Could not load libllvmlite.so"),
        (SystemError(), "numba.core.typeconv", "SystemError"),
    ],
)
def test_a_broken_numba_is_told_with_what_broke(import_fails, told, error, module, reason):
    import_fails(error, module)
    run_operators(features())
    (warning,) = told
    assert str(warning.message).startswith(f"numba cannot be imported ({reason}), so upscale_fx runs on torch's")
    assert "`pip install --upgrade --force-reinstall numba`" in str(warning.message)


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'our.rows'", name="our.rows"),
        ModuleNotFoundError("No module named 'scipy'", name="scipy"),
        ImportError("cannot import name 'rows'"),
        AttributeError("module 'numpy' has no attribute 'rows'"),
    ],
    ids=str,
)
def test_a_mistake_of_ours_is_raised(import_fails, told, error):
    import_fails(error, "upscale_fx.operators.kernels.compiled")
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            operators.csr(torch.tensor([0]), 1)
    assert not told


def test_who_asks_for_kernels_by_name_is_not_warned(import_fails, told):
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    with kernels.using("torch"):
        run_operators(features())
    assert not told
    with pytest.raises(ModuleNotFoundError, match="numba"):
        kernels.using("numba").__enter__()
    assert not told


def test_other_dtypes_are_not_slower_without_numba_and_nothing_is_told(import_fails, told):
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    operators.spmm(torch.tensor([0, 1]), None, None, torch.ones(1, 1, dtype=torch.bfloat16), "sum")
    assert not told


def test_the_warning_waits_where_nobody_would_see_it(import_fails, told):
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    with kernels.without_warning():
        operators.csr(torch.tensor([0]), 1)
    assert not told
    compiled = upscale_fx.prune(SAGE(4, 8, 2), 0.5)
    assert not told, "prune() runs the graph on examples, where warnings are ignored"
    compiled(torch.randn(3, 4), torch.tensor([[0], [1]]))
    assert len(told) == 1


def test_a_warning_that_is_an_error_stops_one_call(import_fails):
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    with pytest.raises(UpscaleWarning, match="numba is not installed"):
        operators.csr(torch.tensor([0]), 1)
    assert operators.csr(torch.tensor([0]), 1)[0].tolist() == [0, 1]


def test_numba_is_found_when_it_was_installed_meanwhile(import_fails, monkeypatch):
    pytest.importorskip("numba")
    import_fails(ModuleNotFoundError("No module named 'numba'", name="numba"))
    assert kernels.name() == "torch"
    monkeypatch.undo()
    assert kernels.name() == "torch", "an import that failed is not tried in every call"
    kernels.choose_again()
    assert kernels.name() == "numba"


# Numba that cannot compile -------------------------------------------------------------------------------------------


@pytest.fixture
def uncompilable(unresolved, monkeypatch):
    """One of the loops is nothing that numba can compile."""
    pytest.importorskip("numba")
    from upscale_fx.operators.kernels import jit, sum_loops, threads

    def loop(*arguments):
        return arguments[0].no_such_thing

    monkeypatch.setattr(sum_loops, "spmm_sum", jit.compile_loop(loop))
    return lambda: monkeypatch.setattr(threads, "SMALL", 0)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_numba_cannot_compile_runs_on_torch(uncompilable, told, monkeypatch, num_threads):
    uncompilable()
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    graph = random_graph(40, 30, 200)
    x = torch.randn(30, 4)
    assert kernels.name() == "numba"
    for _ in range(2):
        found = operators.spmm(graph.rowptr, graph.col, None, x, "sum")
        assert found.equal(torch_kernels.spmm(graph.rowptr, graph.col, None, x, "sum"))
    assert kernels.name() == "torch"
    (warning,) = (each for each in told if issubclass(each.category, UpscaleWarning))
    assert "cannot compile" in str(warning.message)
    assert "uncompilable.<locals>.loop: TypingError" in str(warning.message)
    assert "--force-reinstall numba`" in str(warning.message)


def test_who_asks_for_numba_by_name_gets_the_error(uncompilable):
    with kernels.using("numba"), pytest.raises(CompilationError, match=r"cannot compile .*loop: TypingError"):
        operators.spmm(torch.tensor([0, 1]), None, None, torch.ones(1, 1), "sum")
    assert kernels.name() == "numba", "it fell back for those only who did not ask"


# What people read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["numba", "torch"])
def test_reports_name_the_kernels(asked):
    if asked == "numba":
        pytest.importorskip("numba")
    compiled = upscale_fx.prune(SAGE(4, 8, 2), 0.5)
    with kernels.using(asked):
        report = upscale_fx.report(compiled)
        assert report.kernels == asked
        assert f"\nkernels     {asked}" in str(report)
    with kernels.using(asked):
        assert kernels.name(torch.ones(1, dtype=torch.float64)) == asked
        assert kernels.name(torch.ones(1, dtype=torch.bfloat16)) == "torch"


def test_reports_of_graphs_without_fused_operators_name_none():
    report = upscale_fx.report(upscale_fx.compact(upscale_fx.mask(SAGE(4, 8, 2), 0.5)))
    assert report.kernels == ""
    assert "kernels" not in str(report)


def test_the_benchmark_names_the_kernels(capsys):
    size = ["--synthetic", "30", "90", "--dims", "8", "8", "8", "3", "--repeats", "1", "--no-memory"]
    with kernels.using("torch"):
        found = main(["bench", *size, "--models", "gcn", "--columns", "upscale 0*", "--train"])
    printed = capsys.readouterr().out
    assert "upscale_fx runs on torch kernels" in printed
    assert "\nGCN (torch kernels) " in printed
    assert "\nGCN, epoch of training (torch kernels) " in printed
    assert found["machine"]["kernels"] == found["models"]["GCN"]["kernels"] == "torch"


# A process of its own ------------------------------------------------------------------------------------------------

NOT_IMPORTABLE = """
import os, sys, warnings
sys.modules["numba"] = None
record = []
warnings.showwarning = lambda message, category, *place: record.append(message) if "numba" in str(message) else None

def stage(name):
    print(name, len(record), flush=True)

import torch, upscale_fx
from upscale_fx.models import SAGE
stage("imported")
x, edges = torch.randn(5, 4), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
compiled = upscale_fx.prune(SAGE(4, 8, 2).eval(), 0.5)
assert upscale_fx.report(compiled).kernels == "torch"
stage("pruned")
shape = {"x": {0: torch.export.Dim("n", min=2)}, "edge_index": {1: torch.export.Dim("e", min=2)}}
exported = torch.export.export(compiled, (x, edges), dynamic_shapes=shape).module()
stage("exported")

def inspect(graph, inputs):
    stage("compiled")
    return graph.forward

torch.compile(compiled, backend=inspect, fullgraph=True, dynamic=True)(x, edges)
stage("run")
exported(x, edges), compiled(x, edges)
child = os.fork()
compiled(x, edges)
if child == 0:
    stage("child")
    os._exit(0)
os.waitpid(child, 0)
stage("parent")
assert type(record[0]) is upscale_fx.UpscaleWarning
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_without_numba_tracing_is_silent_and_running_warns_once(monkeypatch):
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    command = [sys.executable, "-c", NOT_IMPORTABLE]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    stages = [line.rsplit(maxsplit=1) for line in result.stdout.splitlines()]
    assert stages == [
        ["imported", "0"], ["pruned", "0"], ["exported", "0"], ["compiled", "0"],
        ["run", "1"], ["child", "1"], ["parent", "1"],
    ]  # fmt: skip
