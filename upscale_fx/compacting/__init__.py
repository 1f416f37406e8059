"""Which channels stay, and where: layouts, one order per tied group, and the graph written anew."""
