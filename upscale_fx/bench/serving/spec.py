"""The settings of one run of the benchmark of servers."""

from __future__ import annotations

from dataclasses import dataclass

from upscale_fx.bench.spec import STORED, Spec


@dataclass(frozen=True)
class ServingSpec:
    """The settings of one run.

    Attributes:
        models: names of :data:`upscale_fx.bench.networks.NETWORKS`.
        nodes, edges: of the synthetic graph.
        dims: widths, input to output.
        amount: the share of channels that upscale_fx removes.
        batches: how many nodes a question asks for.
        rounds: how often all columns take their turn.
        questions: the most questions of a column in one turn.
        patience: seconds after which a turn asks no further question.
        rate: changes per second in the columns beside updates, each of ``burst`` edges.
        burst: edges of one such change.
        transactions: how many durable transactions are timed.
        transaction_edges: edges of each.
        fanouts: neighbours per node at hop 0 and 1.
        graphs: stored graphs for fan-outs.
        hidden: hidden width of the models for fan-outs.
        steps: of their training, each on 512 nodes.
        judged: how many test nodes are asked for with fan-outs.
        data: folder of stored graphs, with a ``load.py``.
        threads: threads of every library; None leaves their own choice.
        seed: seed of graph, weights and draws.
    """

    models: tuple[str, ...] = ("GCN", "SAGE", "GAT")
    nodes: int = 169_343
    edges: int = 1_166_243
    dims: tuple[int, ...] = (128, 256, 256, 40)
    amount: float = 0.75
    batches: tuple[int, ...] = (1, 64, 512)
    rounds: int = 5
    questions: int = 200
    patience: float = 1.0
    rate: float = 50.0
    burst: int = 10
    transactions: int = 20
    transaction_edges: int = 1000
    fanouts: tuple[int, int] = (25, 10)
    graphs: tuple[str, ...] = ("physics", "github")
    hidden: int = 256
    steps: int = 60
    judged: int = 4096
    data: str = str(STORED)
    threads: int | None = None
    seed: int = 0

    def as_bench(self, model: str) -> Spec:
        """The settings of the usual benchmark for the same graph and model."""
        return Spec(models=(model,), nodes=self.nodes, edges=self.edges, dims=self.dims, seed=self.seed, memory=False)


#: Seconds in all: to see that everything runs. Its figures mean nothing.
SMALL = ServingSpec(
    nodes=400, edges=2000, dims=(8, 16, 16, 5), batches=(1, 64), rounds=2, questions=3, patience=0.1, rate=200.0,
    transactions=2, transaction_edges=20, graphs=(), hidden=16, steps=3, judged=128,
)  # fmt: skip
