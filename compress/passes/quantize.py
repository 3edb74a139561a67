"""Post-training quantisation of encoder, denoiser and decoder.

Ranges are min-max, or learned as PassionSR (arXiv 2411.17106) does.
"""

import fnmatch
from typing import Any

import torch
from torch import nn

from compress.core.errors import UserError
from compress.data.calibration import calibration_hash, calibration_images, calibration_pairs
from compress.model.calls import name_in_model
from compress.model.passes import FitContext
from compress.model.sr_model import SRModel
from compress.passes.quantize_config import QuantizeConfig, Width
from compress.quant.boundary_layers import find_boundary_layers
from compress.quant.by_step import divide_by_step, quantisers_of
from compress.quant.distributed import Options
from compress.quant.explicit import reserve_factors
from compress.quant.fit import begin, begin_ranges
from compress.quant.flow import Flow, record
from compress.quant.layer_plan import (
    SENSITIVE_BITS,
    BitRules,
    FloatLayer,
    LayerChoice,
    LayerPlan,
    PointBits,
    no_match,
    quantizable_layers,
    skip_concatenations,
)
from compress.quant.layers import LayerOptions, QuantLayer
from compress.quant.placement import Placement
from compress.quant.point_planner import float_operators, place_points
from compress.quant.points import points_of
from compress.quant.schedule import fit_model
from compress.quant.sites import find_sites


class Quantize(QuantizeConfig):
    """Integer weights and activations, with ranges that are observed or learned.

    | placement           | quantised besides inputs and weights of layers                     |
    |---------------------|--------------------------------------------------------------------|
    | compat              | nothing, as in PassionSR's code                                    |
    | compat, `attention` | the denoiser's Q, K, V and softmax, as in the paper                |
    | compat, `outputs`   | what convolutions put out, which integer kernels on a CPU need     |
    | cpu                 | what convolutions put out, sums and enlarged copies of it, and     |
    |                     | attention's operands; for onnxruntime on x86                       |
    | full                | every tensor that one operator puts out and another reads; a       |
    |                     | softmax's in 16 bits                                               |

    In `compat`, norms, activation functions and residual sums stay in floating point, so a figure
    of it is not one of a whole-graph W8A8. In `cpu`, GroupNorm, SiLU and softmax are computed in
    floating point. What goes in and out of a component (pixels, latents, predictions) keeps its
    precision in all three.

    A recipe may list the pass several times, once for each component.
    """

    def plan(self, model: SRModel) -> LayerPlan:
        """Say which layers `convert` would replace, and how.

        Raises:
            UserError: No layer is left, or a pattern of `outputs` matches none.
        """
        return self._layer_plan(model, quantizable_layers(model, self.components), self._rules())

    def convert(self, model: SRModel) -> None:
        """Replace layers, and put quantisers between operators.

        Raises:
            UserError: No layer is left, a pattern matches nothing, or an earlier pass has quantised
                the tensors between operators already.
        """
        layers = quantizable_layers(model, self.components)
        rules = self._rules()
        earlier = quantisers_of(model)
        replaced = self._layer_plan(model, layers, rules).apply(model)
        point_names = self._place_points(model, rules)
        rules.check_patterns(layers, point_names)
        self._reserve_room(model, {layer for layer, _ in replaced})
        if self.ranges == "by_step":
            divide_by_step(model, self.components, earlier)
        if any(weight.is_meta for _, weight in replaced):
            return
        for layer, weight in replaced:
            begin(layer, weight)
        for name in self.components:
            points = points_of(getattr(model, name))
            if points is not None:
                begin_ranges(points)

    def _rules(self) -> BitRules:
        """The bits that this config asks for."""
        pins = {}
        for pattern, bits in self.pins.items():
            width = Width.of(bits)
            pins[pattern] = (width.weights, width.activations)
        return BitRules(self.weights, self.activations, pins, self.skip)

    def _layer_plan(
        self, model: SRModel, layers: dict[str, FloatLayer], rules: BitRules
    ) -> LayerPlan:
        sensitive, boundary = self._boundary_layers(model)
        seams = skip_concatenations(model) if self.split_skips else {}
        with_output = self._layers_with_output(layers, boundary)
        choices = []
        for name in layers:
            if rules.is_skipped(name):
                continue
            least = SENSITIVE_BITS if name in sensitive else 0
            weight_bits, act_bits = rules.bits(name, least, least)
            options = LayerOptions(
                weight_bits=weight_bits,
                act_bits=act_bits,
                symmetric=self.weight_scheme == "symmetric",
                quantise_output=name in with_output,
                low_rank=self.low_rank,
                reduce_range=self.reduce_range,
            )
            component, _, path = name.partition(".")
            choices.append(LayerChoice(component, path, options, seams.get(name)))
        return LayerPlan(tuple(choices))

    def _boundary_layers(self, model: SRModel) -> tuple[set[str], set[str]]:
        """Full names of the sensitive layers and of all at the boundary, if either is asked for."""
        sensitive: set[str] = set()
        boundary: set[str] = set()
        if min(self.weights, self.activations) >= SENSITIVE_BITS and not self.outputs:
            return sensitive, boundary
        for component, flow in record(model, self.components).items():
            found = find_boundary_layers(flow)
            sensitive.update(name_in_model(component, name) for name in found.sensitive)
            boundary.update(name_in_model(component, name) for name in found.boundary)
        return sensitive, boundary

    def _layers_with_output(self, layers: dict[str, FloatLayer], boundary: set[str]) -> set[str]:
        """Full names of the convolutions that `outputs` means.

        Latents, predictions and pixels keep their precision, unless named in placement cpu.
        """
        named: set[str] = set()
        for pattern in self.outputs:
            matching = fnmatch.filter(layers, pattern)
            if not matching:
                raise no_match(pattern, layers, "outputs")
            named.update(matching)
        if self.placement != "cpu":
            named -= boundary
        return {name for name in named if isinstance(layers[name], nn.Conv2d)}

    def _place_points(self, model: SRModel, rules: BitRules) -> list[str]:
        """Put quantisers between operators; returns the full names of all that could be had."""
        placed = self._components_with_points()
        if not placed and not self.equalise:
            return []
        # With reduced sampling, the encoder keeps all positions in placement cpu: it sees the
        # image's own texture.
        sampled = ("decoder",) if self.placement == "cpu" else ("encoder", "decoder")
        names: list[str] = []
        for name, flow in record(model, placed or self.components).items():
            component = getattr(model, name)
            component.flow = flow
            if name not in placed:
                continue
            if points_of(component) is not None:
                raise UserError(
                    f"pass 'quantize': the tensors between the operators of the {name} were "
                    "quantised by an earlier pass; list placement 'full' or attention once per "
                    "component"
                )
            bits = PointBits(name, rules)
            stride = self.norm_stride if name in sampled else 1
            place_points(component, flow, bits, self.placement, stride)
            names += bits.names
        return names

    def _components_with_points(self) -> tuple[str, ...]:
        """The components whose tensors between operators are quantised."""
        if self.placement != "compat":
            return self.components
        if self.attention and "denoiser" in self.components:
            return ("denoiser",)
        return ()

    def _reserve_room(self, model: SRModel, new_layers: set[QuantLayer]) -> None:
        """Make the biases and factors that transforms will need, whatever the data say."""
        if not self.has_transforms:
            return
        absorbed: set[nn.Module] = set()
        for name in self.components:
            for site in find_sites(getattr(model, name)):
                # Not by their learning state, which no layer on the meta device has.
                if new_layers.issuperset(site.consumers):
                    site.make_room()
                    absorbed.update(site.consumers)
        if self.explicit:
            reserve_factors(new_layers, absorbed)

    def fit(self, model: SRModel, context: FitContext) -> dict[str, Any]:
        """Observe and learn all ranges, and write codes and scales.

        Returns:
            The placement, and errors and counts of every component.

        Raises:
            UserError: The crops do not suit the model, images are missing, or a tensor can be given
                no range.
        """
        if self.calibration.size % model.multiple:
            raise UserError(
                f"calibration.size {self.calibration.size} is not a multiple of {model.multiple}, "
                "which this model needs; round it"
            )
        images, references = self._images(context)
        flows = self._take_flows(model)
        figures: dict[str, Any] = {
            "placement": self.label(),
            "calibration_size": self.calibration.size,
        }
        if self.placement != "compat":
            figures["float_operators"] = {
                name: float_operators(getattr(model, name), flow) for name, flow in flows.items()
            }
        before = context.before(self.pass_)
        fitted_flows: dict[str, Flow | None] = {}
        for name in self.components:
            fitted_flows[name] = flows.get(name)
        options = self._options(context.seed)
        return figures | fit_model(model, before, images, options, fitted_flows, references)

    def _options(self, seed: int) -> Options:
        """What calibration does beyond observing."""
        return Options(
            search=self.method == "passionsr" and "lbq" not in self.ablate,
            transforms=self.has_transforms,
            equalise=self.equalise,
            feedback=self.rounding == "feedback",
            bias=self.bias_correction,
            distributed="dqc" not in self.ablate,
            alpha=self.alpha,
            epochs=self.epochs,
            lr=self.lr,
            batch=self.batch,
            seed=seed,
            order=self.order,
            polish=self.polish,
        )

    def _images(self, context: FitContext) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
        """Low-resolution images, and photographs where they are the decoder's target."""
        config = self.calibration
        if self.target == "fp":
            images = calibration_images(config.data, config.images, config.size, context.seed)
            return [x.to(context.device) for x in images], None
        pairs = calibration_pairs(config.data, config.hr, config.images, config.size, context.seed)
        small = [lr.to(context.device) for lr, _ in pairs]
        large = [hr.to(context.device) for _, hr in pairs]
        return small, large

    def _take_flows(self, model: SRModel) -> dict[str, Flow]:
        """What `convert` recorded, taken off the model again."""
        flows: dict[str, Flow] = {}
        for name in self.components:
            component = getattr(model, name)
            if hasattr(component, "flow"):
                flows[name] = component.flow
                del component.flow
        return flows

    @property
    def grids(self) -> Placement:
        """Where this pass puts grids."""
        return Placement.of(self.placement, self.attention)

    def label(self) -> str:
        """The placement that a figure of this pass belongs to."""
        if self.outputs:
            return f"{self.grids} with outputs"
        return str(self.grids)

    def as_published(self) -> "Quantize":
        """This pass without what PassionSR does not have."""
        return self.model_copy(update={"skip": (), "outputs": (), "low_rank": 0})

    def data_key(self) -> str:
        """Identity of the calibration images."""
        images = calibration_hash(self.calibration.data)
        if self.calibration.hr is None:
            return images
        return f"{images}+{calibration_hash(self.calibration.hr)}"
