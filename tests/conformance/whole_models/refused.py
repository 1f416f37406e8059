"""Models that are refused today, with reasons and messages. Whoever makes one work takes its line out."""

from dataclasses import dataclass, replace

from tests.conformance.whole_models.row import Whole


@dataclass(frozen=True)
class Refusal:
    """The reason in words, as the documentation lists it, and what the error says."""

    why: str
    error: str


FIXED = Refusal("indices of another shape than [2, E] fix the number of nodes", r"expected \[(any, 3, )?9")
POINTS = Refusal("what an index points to is guessed, and here wrongly", "does not accept inputs of shapes")
AXES = Refusal("which axes are rows is guessed, and here wrongly", "does not accept inputs of shapes")
DATA = Refusal("forward takes a Data object", "but a graph takes tensors")
DENSE = Refusal("to_dense_adj reads the largest number of nodes", r"_to_dense_adj.py:\d+: a tensor's value")
SPARSE = Refusal("the graph is a sparse matrix", "is sparse")

REFUSED = {
    "MinCut-PyG graph examples": DENSE,
    "Graphormer-deep and attentive": DENSE,
    "D-MPNN-molecules": POINTS,
    "GraphDTA gcn on two-molecules": POINTS,
    "DeepDDS-molecules": POINTS,
    "NGCF-links": FIXED,
    "RGCN DistMult-links": POINTS,
    "RGCN TransE-links": POINTS,
    "unsupervised SAGE-links": FIXED,
    "BUDDY-links": FIXED,
    "SR-GNN-links": FIXED,
    "recommender-hetero": POINTS,
    "dot recommender-hetero": POINTS,
    "bipartite SAGE-hetero": POINTS,
    "RGCN-hetero": POINTS,
    "RGCN bases-hetero": POINTS,
    "GVP-points and crystals": AXES,
    "PointNet++ segmentation-points and angles": POINTS,
    "A3TGCN-temporal": AXES,
    "ASTGCN-temporal": AXES,
    "STGCN-temporal": FIXED,
    "TGN embedding-temporal": FIXED,
    "Net-forward(data)": DATA,
    "GraphNet-forward(data)": DATA,
    "GraphNet on a Batch-forward(data)": DATA,
    "Molecule-forward(data)": DATA,
    "Weighted-forward(data)": DATA,
    "Weighted without weights-forward(data)": DATA,
    "Pooled-forward(data)": DATA,
    "Positions-forward(data)": DATA,
    "HeteroNet-forward(data)": DATA,
    "GCN on adj_t-sparse adjacency": SPARSE,
    "SAGE on adj_t-sparse adjacency": SPARSE,
    "Kipf's GCN-sparse adjacency": SPARSE,
}


def marked(rows: list[Whole]) -> list[Whole]:
    """The rows, those that are refused marked as such."""
    names = {name.replace(" ", "_"): refusal for name, refusal in REFUSED.items()}
    unknown = names.keys() - {row.name for row in rows}
    assert not unknown, unknown
    return [_refused(row, names[row.name]) if row.name in names else row for row in rows]


def _refused(row: Whole, refusal: Refusal) -> Whole:
    return replace(row, expect="refused", why=refusal.why, error=refusal.error)
