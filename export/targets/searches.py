"""What only chooses an index, as the search of the nearest code of a vector quantiser does.

With few bits it chooses another index, which no bit of what follows can mend. So a search stays in
float32 wherever a target quantises or rounds.
"""

import onnx

PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
CHOICES = ("ArgMin", "ArgMax")


def searching_nodes(model: onnx.ModelProto) -> list[str]:
    """The names of the nodes that lead to an index, back to the last product and with it."""
    producer = {name: node for node in model.graph.node for name in node.output}
    choices = [node for node in model.graph.node if node.op_type in CHOICES]
    names = [node.name for node in choices]
    waiting = [node.input[0] for node in choices]
    while waiting:
        node = producer.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.append(node.name)
        if node.op_type not in PRODUCTS:
            waiting.extend(node.input)
    return names
