"""Prune ordinary PyTorch Geometric models with upscale_fx and with other pruners, and print the outcomes in a table.

    python examples/compare.py              # `make compare` installs the peers first
    python examples/compare.py --markdown

Each tool gets a fresh copy of the model, to remove half of the channels. Its result is compared with its own
reference: the dense model with all weights that the tool removed set to zero.

Tools are used as their READMEs show. ml-upscale requires torch 2.0.1 but runs on the installed torch here.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch_geometric.nn import Linear as GraphLinear
from torch_geometric.nn.models import GAT, GCN, GIN, PNA, GraphSAGE
from torch_geometric.utils import degree
from tqdm import tqdm

import upscale_fx
from prune_gnn import generated_graph, largest_difference
from residual_gcn import ResidualGCN
from upscale_fx.models import GraphTransformer

AMOUNT = 0.5
HIDDEN = 64
LAYERS = 3
#: The largest difference that counts as rounding (float32), as a share of the largest output.
ROUNDING = 1e-4

Inputs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A model to prune.

    Attributes:
        model: the model, in ``eval()``; tools get copies.
        output_layer: path of the module that computes the logits; it must keep all its outputs.
        inputs: node features ``[N, C]`` and edges ``[2, E]``.
    """

    model: nn.Module
    output_layer: str
    inputs: Inputs

    def copy(self) -> nn.Module:
        """Return a copy for a tool, which may break it."""
        return copy.deepcopy(self.model)


def cases(inputs: Inputs, classes: int) -> dict[str, Case]:
    """Return the models of the comparison by name, with weights that depend only on the seed."""
    x, edge_index = inputs
    sizes = {"in_channels": x.shape[1], "hidden_channels": HIDDEN, "num_layers": LAYERS, "out_channels": classes}
    in_degrees = torch.bincount(degree(edge_index[1], num_nodes=len(x), dtype=torch.long))
    aggregation = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": in_degrees}
    last = f"convs.{LAYERS - 1}"
    torch.manual_seed(0)
    models = {
        "GCN": (GCN(**sizes), last),
        "GraphSAGE": (GraphSAGE(**sizes), last),
        "GAT, 4 heads": (GAT(**sizes, heads=4), last),
        "GATv2, 4 heads": (GAT(**sizes, heads=4, v2=True), last),
        "Graph transformer": (GraphTransformer(x.shape[1], HIDDEN, classes, num_layers=LAYERS), last),
        "GIN": (GIN(**sizes), last),
        "PNA": (PNA(**sizes, **aggregation), last),
        "JK-Net, cat": (GCN(**sizes, jk="cat"), "lin"),
        "Residual GCN": (ResidualGCN(x.shape[1], HIDDEN, classes, LAYERS), "lin"),
    }
    return {name: Case(_roughen(model).eval(), layer, inputs) for name, (model, layer) in models.items()}


@torch.no_grad()
def _roughen(model: nn.Module) -> nn.Module:
    """Change parameters from their initial zeros and ones, so that a missing or misplaced one changes the output."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# --- Tools: each takes a case and returns its pruned model and the reference for it -----------------------------------

Pruned = tuple[nn.Module, nn.Module]


def prune_with_upscale_fx(case: Case) -> Pruned:
    """Use this project, with its defaults."""
    reference = upscale_fx.mask(case.model, AMOUNT, example_inputs=case.inputs)
    return upscale_fx.prune(case.model, AMOUNT, example_inputs=case.inputs), reference


def prune_constrained(case: Case) -> Pruned:
    """Use this project with one set of channels for all readers of a tensor, as the peers do."""
    reference = upscale_fx.mask(case.model, AMOUNT, constrained=True, example_inputs=case.inputs)
    return upscale_fx.prune(case.model, AMOUNT, constrained=True, example_inputs=case.inputs), reference


def prune_with_torch_pruning(case: Case) -> Pruned:
    """Use Torch-Pruning as its README shows, on the unchanged model."""
    return _torch_pruning(case, case.copy())


def prune_with_torch_pruning_after_swap(case: Case) -> Pruned:
    """Use Torch-Pruning on a model whose PyG Linear modules, unknown to it, are replaced by torch's."""
    return _torch_pruning(case, swap_linears(case.copy()))


def swap_linears(model: nn.Module) -> nn.Module:
    """Replace PyG's own Linear modules by torch's in place, with the same weights; return the model."""
    for path, module in list(model.named_modules()):
        if isinstance(module, GraphLinear):
            linear = nn.Linear(module.in_channels, module.out_channels, bias=module.bias is not None)
            linear.load_state_dict(module.state_dict())
            model.set_submodule(path, linear)
    return model


def torch_pruning_step(model: nn.Module, inputs: tuple[Tensor, ...], ratio: float, output_layer: str) -> None:
    """Prune a model in place with Torch-Pruning's group magnitudes, as its README shows; it leaves the output layer."""
    import torch_pruning  # noqa: PLC0415 - optional

    torch_pruning.pruner.BasePruner(
        model,
        example_inputs=inputs,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule(output_layer)],
    ).step()


def _torch_pruning(case: Case, model: nn.Module) -> Pruned:
    torch_pruning_step(model, case.inputs, AMOUNT, case.output_layer)
    return model, _zero_what_is_gone(case.copy(), model)


def prune_with_ml_upscale(case: Case) -> Pruned:
    """Use ml-upscale's export. Its masking takes only images on a GPU, so it gets the model that upscale_fx masked."""
    from upscale import PruningManager  # noqa: PLC0415 - optional

    reference = upscale_fx.mask(case.model, AMOUNT, example_inputs=case.inputs)
    model = copy.deepcopy(reference)
    PruningManager(model).compute(list(case.inputs)).prune()
    return model, reference


@torch.no_grad()
def _zero_what_is_gone(dense: nn.Module, pruned: nn.Module) -> nn.Module:
    """Zero the entries of the dense model's parameters that the pruned one lacks; random values identify them."""
    kept = dict(pruned.named_parameters())
    for name, parameter in dense.named_parameters():
        parameter.mul_(torch.isin(parameter, kept[name]))
    return dense


@dataclass(frozen=True)
class Tool:
    """A column of the table: the module that must be installed, and how to prune with it."""

    module: str
    prune: Callable[[Case], Pruned]


TOOLS = {
    "upscale_fx": Tool("upscale_fx", prune_with_upscale_fx),
    "constrained=True": Tool("upscale_fx", prune_constrained),
    "Torch-Pruning": Tool("torch_pruning", prune_with_torch_pruning),
    "Torch-Pruning, PyG Linear swapped": Tool("torch_pruning", prune_with_torch_pruning_after_swap),
    "ml-upscale": Tool("upscale", prune_with_ml_upscale),
}


# --- The comparison ---------------------------------------------------------------------------------------------------


def outcome(tool: Tool, case: Case) -> str:
    """Prune, and describe the outcome in a few words."""
    if importlib.util.find_spec(tool.module) is None:
        return "not installed"
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        try:
            return _judge(case, *tool.prune(case))
        except Exception as error:  # code of others may raise anything; the cell shows the error
            return f"error: {type(error).__name__}"


def _judge(case: Case, pruned: nn.Module, reference: nn.Module) -> str:
    share = _parameter_count(pruned) / _parameter_count(case.model)
    if share == 1:
        return "unchanged, no error"
    with torch.no_grad():
        expected, actual = reference.eval()(*case.inputs), pruned.eval()(*case.inputs)
    if actual.shape != expected.shape:
        return f"wrong: output {list(actual.shape)}"
    difference = largest_difference(reference, pruned, case.inputs)
    right = difference <= ROUNDING * float(expected.abs().max())
    return f"{'' if right else 'wrong: '}{share:.0%} left, off by {difference:.0e}"


def _parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main(argv: Sequence[str] | None = None) -> list[dict[str, str]]:
    """Run the comparison described by command-line arguments; return the rows of the table it prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print the table for a Markdown file")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="compare these only")
    options = parser.parse_args(argv)

    graph = generated_graph()
    known = cases((graph.x, graph.edge_index), classes=int(graph.y.max()) + 1)
    names = options.models or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"argument --models: invalid choice: {unknown[0]!r} (choose from {', '.join(map(repr, known))})")

    rows = [{"model": name} for name in names]
    with tqdm(total=len(rows) * len(TOOLS), desc="comparing", unit="cell") as progress:
        for row in rows:
            for title, tool in TOOLS.items():
                row[title] = outcome(tool, known[row["model"]])
                progress.update()
    print(tabulate(rows, headers="keys", tablefmt="github" if options.markdown else "simple", disable_numparse=True))
    print(
        f"\nAsked for: {AMOUNT:.0%} of the channels. Left: parameters. Off by: the largest difference of a logit to the"
    )
    print("dense model with everything that the tool removed set to zero.")
    return rows


if __name__ == "__main__":
    main()
