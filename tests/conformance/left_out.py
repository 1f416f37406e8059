"""Modules of torch_geometric.nn that no row covers, each with the reason."""

LIBRARY = "needs a compiled library besides PyTorch"
NOT_TENSORS = "takes or returns things that are not tensors, or remembers earlier calls"

LEFT_OUT = {
    "MessagePassing": "base class: the user's own convolutions below stand for it",
    "Aggregation": "base class",
    "CuGraphSAGEConv": LIBRARY,
    "CuGraphGATConv": LIBRARY,
    "CuGraphRGCNConv": LIBRARY,
    "FusedGATConv": LIBRARY,
    "GravNetConv": LIBRARY,
    "SplineConv": LIBRARY,
    "DynamicEdgeConv": LIBRARY + "; EdgeConv on a given graph is covered",
    "XConv": LIBRARY,
    "PANConv": LIBRARY,
    "PANPooling": LIBRARY,
    "DimeNet": LIBRARY,
    "DimeNetPlusPlus": LIBRARY,
    "GNNFF": LIBRARY,
    "ViSNet": LIBRARY,
    "Node2Vec": LIBRARY,
    "MetaPath2Vec": NOT_TENSORS + "; it has an embedding and no layer",
    "ARGA": "its encoder is the model; GAE and VGAE are covered",
    "RENet": NOT_TENSORS,
    "TGNMemory": NOT_TENSORS,
    "LPFormer": NOT_TENSORS,
}
