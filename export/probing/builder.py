"""Graphs of one operator between quantisers, or in floating point."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from export.probing.precisions import ACTIVATIONS, FLOATS, WEIGHTS, Widths, widths_of

IR_VERSION = 10
OPSET = 18
QUANTISED_OPSET = 21  # the first that quantises to 16 bits
FATAL = 4  # onnxruntime's level of logging
LEAST_SCALE = 1e-9
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # operators whose constants are weights
OUTPUTS_SECOND = ("ConvTranspose", "MatMul", "Gemm")  # those with output channels on axis 1
Built = tuple[onnx.ModelProto, dict[str, np.ndarray]]


class Builder:
    """The parts of one graph, in the order in which they are made.

    Args:
        form: An operator form of export/rules/forms.yaml.
        precision: Of PRECISIONS.
        seed: Of the inputs and constants.
    """

    def __init__(self, form: dict[str, Any], precision: str, seed: int):
        self.form = form
        self.random = np.random.default_rng(seed)
        self.widths = widths_of(precision)
        self.float_type = FLOATS.get(precision, TensorProto.FLOAT)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """A further node."""
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))

    def store(self, name: str, values: Any) -> str:
        """A further constant, of the type of `values`."""
        self.stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def store_as(self, name: str, kind: int, sides: list[int], values: Any) -> str:
        """A further constant of a type of onnx.TensorProto."""
        self.stored.append(helper.make_tensor(name, kind, sides, values))
        return name

    def floats(self, name: str, values: np.ndarray) -> str:
        """A further constant of the graph's float type."""
        return self.store(name, values.astype(helper.tensor_dtype_to_np_dtype(self.float_type)))

    def quantised(self, name: str, widths: Widths, reach: tuple[float, float]) -> str:
        """Q and DQ behind the value `name`, whose range is `reach`."""
        low, high = reach
        steps = 2**widths.activations - 1
        if widths.symmetric:
            high = max(-low, high)
            low = -high
        low = min(low, 0.0)
        high = max(high, 0.0)
        scale = max((high - low) / steps, LEAST_SCALE)
        zero = (steps + 1) // 2 if widths.symmetric else round(-low / scale)
        parameters = [
            self.store(f"{name}_scale", np.float32(scale)),
            self.store_as(f"{name}_zero", ACTIVATIONS[widths.activations], [], [zero]),
        ]
        self.add("QuantizeLinear", [name, *parameters], [f"{name}_q"])
        self.add("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"])
        return f"{name}_dq"

    def weight_axis(self) -> int:
        """The axis of a weight's output channels."""
        turned = self.form.get("at", {}).get("transB")
        return 1 if self.form["op"] in OUTPUTS_SECOND and not turned else 0

    def weight(self, name: str, widths: Widths, values: np.ndarray) -> str:
        """A constant of two axes or more, as symmetric integers; a scale a tensor or a row."""
        top = 2 ** (widths.weights - 1) - 1
        axis = self.weight_axis()
        others = tuple(index for index in range(values.ndim) if index != axis)
        reach = np.abs(values).max(axis=others if widths.per_channel else None, keepdims=True)
        scale = (reach / top).astype(np.float32)
        codes = np.clip(np.round(values / scale), -top, top).astype(np.int32)
        kind = WEIGHTS[widths.weights]
        parameters = [self.store_as(f"{name}_q", kind, list(values.shape), codes.flatten())]
        if widths.per_channel:
            rows = values.shape[axis]
            parameters.append(self.store(f"{name}_scale", scale.reshape(-1)))
            parameters.append(self.store_as(f"{name}_zero", kind, [rows], [0] * rows))
            self.add("DequantizeLinear", parameters, [f"{name}_dq"], axis=axis)
        else:
            parameters.append(self.store(f"{name}_scale", np.float32(scale.reshape(()))))
            parameters.append(self.store_as(f"{name}_zero", kind, [], [0]))
            self.add("DequantizeLinear", parameters, [f"{name}_dq"])
        return f"{name}_dq"

    def constant(self, name: str, spec: list[int] | dict[str, Any]) -> str:
        """An operand as a form writes it: a shape, or one of int, float, floats, positive, none."""
        if isinstance(spec, list):
            return self._random(name, spec)
        ((kind, given),) = spec.items()
        if kind == "none":
            return ""
        if kind == "int":
            return self.store(name, np.array(given, dtype=np.int64))
        if kind == "floats":
            return self.store(name, np.array(given, dtype=np.float32))
        if kind == "positive":
            return self.floats(name, self.random.uniform(0.5, 1.5, given))
        self.floats(name, np.array(given))
        if self.widths is None:
            return name
        return self.quantised(name, self.widths, (float(given), float(given)))

    def _random(self, name: str, sides: list[int]) -> str:
        """Random numbers, as a weight or as a tensor of activations."""
        values = self.random.uniform(-1, 1, sides)
        low, high = self.form.get("range", (-1, 1))
        if low > 0:
            values = self.random.uniform(low, high, sides)
        if self.widths is None:
            return self.floats(name, values)
        if len(sides) > 1 and self.form["op"] in WEIGHTED:
            return self.weight(name, self.widths, values)
        self.floats(name, values)
        return self.quantised(name, self.widths, (float(values.min()), float(values.max())))

    def build(self, reach: tuple[float, float] | None) -> Built:
        """The graph, and its inputs in float32.

        Args:
            reach: The range of the output, for a quantised graph.
        """
        low, high = self.form.get("range", (-1, 1))
        feed = {
            f"x{index}": self.random.uniform(low, high, sides).astype(np.float32)
            for index, sides in enumerate(self.form["x"])
        }
        inputs = list(feed)
        if self.widths is not None:
            inputs = [self.quantised(name, self.widths, (low, high)) for name in feed]
        for index, spec in enumerate(self.form.get("w", ())):
            inputs.append(self.constant(f"w{index}", spec))
        result = self._operator(inputs)
        if self.widths is not None and reach is not None:
            self.quantised(result, self.widths, reach)
        self.nodes[-1].output[0] = "y"
        return self._model(feed), feed

    def _operator(self, inputs: list[str]) -> str:
        """The operator itself, with what makes or reads truth values; returns its result."""
        op = self.form["op"]
        attributes = dict(self.form.get("at", {}))
        outputs = ["y_raw"]
        if op == "Split":
            outputs += [f"y{index}" for index in range(1, len(self.form["w"][0]["int"]))]
        if op == "Cast":
            attributes["to"] = self.float_type
        if "before" in self.form:  # it makes a truth value of the first two inputs
            self.add(self.form["before"], inputs[:2], ["truth"])
            inputs = ["truth", *inputs] if op == "Where" else ["truth"]
        self.add(op, inputs, outputs, **attributes)
        if "after" not in self.form:
            return "y_raw"
        # It turns the operator's truth value into a number.
        self.add(self.form["after"], ["y_raw"], ["y_number"], to=self.float_type)
        return "y_number"

    def _model(self, feed: dict[str, np.ndarray]) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(name, self.float_type, list(x.shape))
            for name, x in feed.items()
        ]
        output = helper.make_tensor_value_info("y", self.float_type, None)
        graph = helper.make_graph(self.nodes, self.form["op"], inputs, [output], self.stored)
        least = OPSET if self.widths is None else QUANTISED_OPSET
        opset = helper.make_opsetid("", max(self.form.get("opset", OPSET), least))
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        return onnx.shape_inference.infer_shapes(model)


def build(form: dict[str, Any], precision: str, seed: int = 0) -> Built:
    """A graph of one operator at a precision, and an input for it.

    The range of a quantised graph's output comes from a run in float32.

    Args:
        form: An operator form of export/rules/forms.yaml.
        precision: Of PRECISIONS.
        seed: Of the inputs and constants.

    Returns:
        The graph, and its inputs in float32 by name.

    Raises:
        UserError: There is no such precision.
    """
    if widths_of(precision) is None:
        return Builder(form, precision, seed).build(None)
    model, feed = Builder(form, "fp32", seed).build(None)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    y = session.run(None, feed)[0]
    return Builder(form, precision, seed).build((float(np.min(y)), float(np.max(y))))
