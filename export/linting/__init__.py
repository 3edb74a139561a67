"""Whether a target's hardware takes a graph: facts of nodes, rules of targets, and a report."""
