"""Arguments and results that are objects: ``Data``, ``HeteroData``, ``Batch``, dataclasses, named tuples, namespaces.

A graph takes tensors. Objects are taken apart into their attributes before a call; results are put together after it.
"""
