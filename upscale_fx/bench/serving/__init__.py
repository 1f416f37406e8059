"""The benchmark of servers: answers beside PyG, durable updates, and fan-outs. It never asserts a time."""
