"""What a recipe asks to be exported, checked before anything is computed.

It needs none of the packages that export: a plan is made without them.
"""

from compress.core.errors import UserError
from compress.data.calibration import calibration_images
from compress.model.sr_model import SRModel
from compress.recipe.export_options import ExportOptions
from compress.recipe.recipe import Recipe
from export.targets.parts import check_no_packed_weights, choose_parts
from export.targets.table import check_options, check_packages, choose_target


def check_exports(recipe: Recipe, model: SRModel, packages: bool = True) -> None:
    """What `export` of a recipe asks for, against its model's structure; no weight is read.

    Args:
        recipe: Of any source and passes.
        model: What the passes make of the source; the meta device suffices.
        packages: Also look for what each target needs on this machine.

    Raises:
        UserError: A target, dtype, component, chip, rewrite or size that cannot be, or a package
            that is missing; with the entry's place in the recipe.
    """
    for index, spec in enumerate(recipe.export):
        try:
            _check_export(model, spec)
            if packages:
                check_packages(spec)
        except UserError as error:
            raise UserError(f"export.{index}: {error}") from None


def _check_export(model: SRModel, options: ExportOptions) -> None:
    check_options(options)
    parts = choose_parts(model, choose_target(options.target), options)
    if options.low_bits != ExportOptions.model_fields["low_bits"].default:
        from export.graphs.export_onnx import check_low_bits  # needs the packages

        check_low_bits(model, options.low_bits)
    if options.target != "onnx":
        check_no_packed_weights(parts)
    if options.target != "onnx" or set(parts.stems) != {"model"}:
        # The calibration photographs must be large enough.
        calibration_images(options.calibration, 1, max(options.lr_size), options.seed)
