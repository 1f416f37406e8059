"""Compiled models leave Python: torch.export with dynamic nodes and edges, and AOTInductor packages."""

import subprocess
import sys

import pytest
import torch
from torch.export import Dim

import export_gnn
import upscale_fx
from tests.networks import FAMILIES, random_graph
from tests.selection import every

needs_compiler = pytest.mark.skipif(export_gnn.cxx_compiler() is None, reason="AOTInductor writes C++")
#: torch's own, when AOTInductor pickles what it compiled.
torchs_own_warning = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
)


def graph(nodes, edges):
    return random_graph(nodes, edges, 12)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11's own, when it loads
@pytest.mark.parametrize("family", every(2, FAMILIES))
def test_exported_programs_run_at_every_size(family, tmp_path):
    torch.manual_seed(0)
    model = family(12, 16, 5, num_layers=2).double().eval()
    masked, compiled = upscale_fx.mask(model, 0.5), upscale_fx.prune(model, 0.5)
    nodes, edges = Dim("nodes", min=2), Dim("edges", min=2)
    with torch.no_grad():
        program = torch.export.export(compiled, graph(23, 70), dynamic_shapes=({0: nodes}, {1: edges}))
        torch.export.save(program, tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2").module()
        for size in ((23, 70), (57, 200), (40, 31)):
            inputs = graph(*size)
            torch.testing.assert_close(loaded(*inputs), masked(*inputs), rtol=1e-10, atol=1e-10)
    assert [name for name, _ in program.named_parameters()] == [name for name, _ in compiled.named_parameters()]


@needs_compiler
@torchs_own_warning
@pytest.mark.slow
def test_the_example_exports_packages_and_compares(tmp_path, capsys):
    torch.manual_seed(0)
    program, package = export_gnn.main(["--hidden", "16", "--folder", str(tmp_path)])
    assert (program.kind, package.kind) == ("exported program", "AOTInductor package")
    assert 0 <= program.difference < 1e-5
    assert 0 <= package.difference < 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {program.path.name, package.path.name}
    assert capsys.readouterr().out.count("difference") == 2

    alone = (
        "import sys, torch\n"
        "model = torch._inductor.aoti_load_package(sys.argv[1])\n"
        "for nodes in (5, 300):\n"
        "    out = model(torch.randn(nodes, 64), torch.randint(nodes, (2, 3 * nodes)))\n"
        "    assert out.shape == (nodes, 7) and bool(out.isfinite().all())\n"
        "assert 'upscale_fx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", alone, package.path], check=True, cwd=tmp_path)


def test_without_a_compiler_the_example_says_so_and_stops(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (program,) = export_gnn.main(["--hidden", "16", "--model", "gcn"])
    assert program.difference < 1e-5
    assert "no C++ compiler here" in capsys.readouterr().out
