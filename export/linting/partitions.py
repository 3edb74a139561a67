"""The pieces that the CPU's nodes cut a graph into."""

from export.linting.graph import Graph
from export.linting.rules import POOR, SUPPORTED


class _Pieces:
    """Nodes in connected pieces (union-find)."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def find(self, index: int) -> int:
        while self.parent[index] != index:
            index = self.parent[index]
        return index

    def join(self, a: int, b: int) -> None:
        self.parent[self.find(a)] = self.find(b)

    def count(self) -> int:
        return len({self.find(index) for index in self.parent})


def partitions(graph: Graph, verdicts: dict[int, str]) -> int:
    """How many pieces the accelerator gets: connected nodes with nothing on the CPU between them.

    Args:
        graph: The graph.
        verdicts: Place of a node -> verdict; nodes that are missing belong to their neighbours.
    """
    pieces = _Pieces()
    stage: dict[str, int] = {}  # value -> CPU nodes on the longest way to it
    node_stage: dict[int, int] = {}
    maker: dict[str, int] = {}  # value -> the accelerator's node that it comes from
    for index, node in enumerate(graph.model.graph.node):
        inputs = graph.computed(node.input)
        here = max((stage.get(name, 0) for name in inputs), default=0)
        runs = verdicts.get(index, SUPPORTED) in (SUPPORTED, POOR)
        stage.update(dict.fromkeys(node.output, here if runs else here + 1))
        if not runs:
            continue
        sources = [maker[name] for name in inputs if name in maker]
        if index in verdicts:
            pieces.parent[index] = index
            node_stage[index] = here
            for source in sources:
                if node_stage[source] == here:
                    pieces.join(index, source)
            sources = [index]
        if sources:
            maker.update(dict.fromkeys(node.output, sources[0]))
    return pieces.count()
