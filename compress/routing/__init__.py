"""Routing: each tile of a large photograph by the cheapest path that is good enough for it."""
