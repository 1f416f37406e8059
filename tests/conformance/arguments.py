"""The kinds of arguments that are covered outside these rows, for the coverage page: kind, forms, test."""

HEADERS = ("kind", "forms", "tests")
ARGUMENTS = [
    (
        "numbers of nodes",
        "seeds, src and dst, pairs `[Q, 2]`, triples, tables `[N, k]` (padded too), `[row, col]`, `[E, 2]`, "
        "permutations; numbers of edges (triplets); faces `[3, F]`",
        "`tracing/test_indices.py`, `test_axes.py`",
    ),
    (
        "embedding tables read whole",
        "`conv(emb.weight, edge_index)`: LightGCN, GCN, GAT, SAGE, RGCN with DistMult; tables one below the other; "
        "normalised, with dropout; returned besides",
        "`tracing/test_node_tables.py`, `masking/test_tables.py`",
    ),
    ("k of the nodes", "`topk` and k-NN up to 137 (examples grow)", "`tracing/test_indices.py`"),
    (
        "a fixed number of nodes",
        "a weight per node, of one type or each: warned of, reported",
        "`tracing/test_indices.py`",
    ),
    (
        "vectors",
        "`[N, C, 3]`, `[E, C, 3]`, pairs `(s, V)`, coordinates",
        "`tracing/test_axes.py`",
    ),
    (
        "sequences",
        "`[T, N, F]`, `[N, T, F]`, `[N, F, T]`, `[B, T, N, F]`, `[B, F, N, T]`, lists of snapshots",
        "`tracing/test_axes.py`",
    ),
    (
        "several graphs",
        "`x_s` and `x_t`, `x1` and `x2`, `ligand_x`, tuples, lists, dictionaries, sampled layers with sizes; two views",
        "`tracing/test_axes.py`",
    ),
    ("types of nodes", "links between two types, any order of sizes", "`tracing/test_axes.py`"),
    (
        "sparse matrices",
        "`adj_t` in CSR, COO, CSC: with weights, bipartite, `(x, None)`, in `Data`, lists, by type; or edges instead",
        "`tracing/test_matrices.py`, `test_matrix_calls.py`, `whole/test_sparse_adjacency.py`",
    ),
    ("what users say", "`dynamic_axes` and `indices`", "`tracing/test_stated_axes.py`"),
]
