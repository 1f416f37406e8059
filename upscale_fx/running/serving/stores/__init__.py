"""Where a server keeps computed rows: in memory, in a folder, or in a store of PyG's."""
