"""The columns of the benchmark: ways to run one model on one graph, each with the reference it must match."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import upscale_fx
from upscale_fx.bench.adjacency import with_adjacency
from upscale_fx.bench.graphs import Graph
from upscale_fx.bench.peers import torch_pruning
from upscale_fx.bench.spec import Spec
from upscale_fx.bench.work import Work, work_of
from upscale_fx.compiled.module import CompiledGNN
from upscale_fx.compiled.prepared import PreparedGraph

#: The column that all others are compared with.
BASELINE = "PyG edge_index"
#: The other ways to run the dense model without upscale_fx; the fastest of the three is "PyG's best".
RIVALS = ("PyG adj_t", "torch.compile")


@dataclass(frozen=True)
class Case:
    """One model on one graph, and values that several columns share, made at their first use.

    Attributes:
        name: the network's name.
        model: the network in ``eval()``; never touched.
        graph: the graph it runs on.
        spec: what is measured.
    """

    name: str
    model: nn.Module
    graph: Graph
    spec: Spec
    _outputs: dict[tuple[float, bool], Tensor] = field(default_factory=dict)
    _graphs: dict[tuple[float, bool, bool], CompiledGNN] = field(default_factory=dict)

    def masked(self, amount: float, constrained: bool = False) -> nn.Module:
        """The model with an amount of its channels set to zero, in ``eval()``."""
        return self.model if amount == 0 else upscale_fx.mask(self.model, amount, constrained=constrained).eval()

    def expected(self, edges: Tensor, amount: float = 0.0, constrained: bool = False) -> Tensor:
        """Logits ``[N, classes]`` of the masked model, run by PyG on ``edges [2, E]``; kept for those of the graph."""
        key = amount, constrained
        if edges is not self.graph.edge_index:
            return self._run_masked(edges, *key)
        if key not in self._outputs:
            self._outputs[key] = self._run_masked(edges, *key)
        return self._outputs[key]

    def _run_masked(self, edges: Tensor, amount: float, constrained: bool) -> Tensor:
        logits: Tensor = self.masked(amount, constrained)(self.graph.x, edges)
        return logits

    def compiled(self, amount: float, constrained: bool = False, trainable: bool | None = None) -> CompiledGNN:
        """The model compiled by upscale_fx, in ``eval()``; if trainable, without the passes for inference only."""
        trainable = self.spec.trainable if trainable is None else trainable
        key = amount, constrained, trainable
        if key not in self._graphs:
            if not trainable:
                graph = upscale_fx.optimize(self.compiled(amount, constrained, True), inference=True)
            elif amount == 0:
                graph = upscale_fx.optimize(upscale_fx.trace(self.model))
            else:
                graph = upscale_fx.prune(self.model, amount, constrained=constrained)
            self._graphs[key] = graph.eval()
        return self._graphs[key]

    def prepared(self, compiled: CompiledGNN) -> PreparedGraph:
        """The handle that a compiled model takes in place of ``edge_index``, with the structure work done."""
        return upscale_fx.prepare(compiled, self.graph.edge_index, self.graph.num_nodes)

    @functools.cached_property
    def work(self) -> Work:
        """The products that PyG computes."""
        return work_of(functools.partial(self.model, self.graph.x, self.graph.edge_index))

    @functools.cached_property
    def least_work(self) -> Work:
        """The products of the optimised graph."""
        return work_of(functools.partial(self.compiled(0.0), self.graph.x, self.graph.edge_index))


@dataclass(frozen=True)
class Built:
    """A column, ready to run.

    Attributes:
        call: runs the model once and returns its logits ``[N, classes]``.
        expected: computes the right logits, with the edges in any order.
        model: the model whose parameters are counted.
        work: counts the products of a call.
        least_work: counts the products of the optimised graph that computes the same logits.
        prepared: bytes of its prepared graph; None if there is none.
    """

    call: Callable[[], Tensor]
    expected: Callable[[Tensor], Tensor]
    model: nn.Module
    work: Callable[[], Work]
    least_work: Callable[[], Work]
    prepared: int | None = None


#: Sets a column up, or returns the reason why it cannot.
Builder = Callable[[Case], Built | str]


def columns(amounts: tuple[float, ...]) -> dict[str, Builder]:
    """Every column by name, in the order of the table."""
    removing = [amount for amount in amounts if amount > 0]
    table: dict[str, Builder] = {BASELINE: _edge_index, RIVALS[0]: _adjacency, RIVALS[1]: _compiled}
    table |= {f"Torch-Pruning {text(amount)}": functools.partial(_peer, amount=amount) for amount in removing}
    table |= {f"upscale {text(amount)}": functools.partial(_upscale, amount=amount) for amount in amounts}
    featured = featured_amount(amounts)
    if featured is not None:
        table[f"upscale {text(featured)}, new graph"] = functools.partial(_upscale, amount=featured, prepared=False)
        table[f"upscale {text(featured)}, constrained"] = functools.partial(_upscale, amount=featured, constrained=True)
    return table


def featured_amount(amounts: tuple[float, ...]) -> float | None:
    """The amount with extra columns: 75 % if it is asked for, else the largest; None if that is 0."""
    return 0.75 if 0.75 in amounts else max(amounts) or None


def legend(spec: Spec) -> dict[str, str]:
    """The meaning of the columns and the figures."""
    measured = "the result of prune()" if spec.trainable else "optimize(prune(...), inference=True)"
    lines = {
        BASELINE: "the PyG model; its time divided by a column's is the column's speed-up, 'vs PyG'",
        RIVALS[
            0
        ]: "PyG with the transposed adjacency as a CSR matrix; normalisation and self loops done before the calls",
        RIVALS[1]: "torch.compile(model, dynamic=True) with edge_index",
        "vs best": f"speed-up over the fastest of {BASELINE}, {' and '.join(RIVALS)}",
        "Torch-Pruning": "PyG Linears swapped for torch's, then pruned, then run as PyG adj_t",
        "upscale": f"{measured}, on a graph prepared once; 'new graph': edge_index in every call",
        "constrained": "all readers of a tensor share one set of channels",
        "limit": "sum of the times of the optimised graph's GEMMs and SpMMs, each run alone in the same rounds",
        "MACs": "multiply-adds of dense products and of sums over neighbours",
        "peak": "peak memory during one call, above that before it (inputs, weights, prepared graph)",
        "off by": "largest difference to the reference, relative to a node's largest logit (or the median node's)",
    }
    if spec.train:
        lines["training"] = "one epoch: forward, backward and Adam on the whole graph; 'off by' is of input gradients"
    return lines


def text(amount: float) -> str:
    """``87.5 %``."""
    return f"{100 * amount:.4g} %"


def _edge_index(case: Case) -> Built:
    return _as_pyg(case, case.model, case.graph.edge_index)


def _adjacency(case: Case) -> Built:
    return _as_pyg(case, *with_adjacency(case.model, case.graph))


def _compiled(case: Case) -> Built:
    torch._dynamo.reset()
    return _as_pyg(case, torch.compile(case.model, dynamic=True), case.graph.edge_index)


def _as_pyg(case: Case, model: Callable[..., Tensor], edges: Tensor) -> Built:
    call = functools.partial(model, case.graph.x, edges)
    return Built(call, case.expected, case.model, lambda: case.work, lambda: case.least_work)


def _peer(case: Case, amount: float) -> Built | str:
    result = torch_pruning(case.name, case.model, amount, case.graph.x.size(1))
    if isinstance(result, str):
        return result
    pruned, reference = result
    model, adjacency = with_adjacency(pruned, case.graph)
    inputs = case.graph.x, case.graph.edge_index
    call = functools.partial(model, case.graph.x, adjacency)

    def least_work() -> Work:
        compiled = upscale_fx.optimize(pruned, inference=not case.spec.trainable).eval()
        return work_of(functools.partial(compiled, *inputs))

    return Built(call, functools.partial(reference, case.graph.x), pruned, lambda: work_of(call), least_work)


def _upscale(case: Case, amount: float, prepared: bool = True, constrained: bool = False) -> Built | str:
    compiled = case.compiled(amount, constrained)
    if constrained and _shapes(compiled) == _shapes(case.compiled(amount)):
        return "the same as without constrained=True"
    edges = case.prepared(compiled) if prepared else case.graph.edge_index
    call = functools.partial(compiled, case.graph.x, edges)
    counted = functools.partial(compiled, case.graph.x, case.graph.edge_index)
    expected = functools.partial(case.expected, amount=amount, constrained=constrained)
    held = edges.nbytes if isinstance(edges, PreparedGraph) else None
    return Built(call, expected, compiled, lambda: work_of(counted), lambda: work_of(counted), held)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {path: parameter.shape for path, parameter in model.named_parameters()}
