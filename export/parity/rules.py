"""The PSNR in dB that a graph has to reach on an image: one function for each kind of graph."""

from export.parity.measure import Noise

FLOAT_DB = 80.0
QUANTISED_DB = 40.0
MARGIN_DB = 3.0  # a runtime's noise and the simulation's own, as independent noises of one size
ANY_DB = 0.0  # finite, and nearer to torch than nothing


def simulation_limit(noise: Noise | None, of_one_colour: bool) -> float:
    """For ONNX files that compute what torch computes, codes included.

    No runtime need come nearer to the simulation than the simulation to itself.

    Args:
        noise: The simulation against itself; None for a float model.
        of_one_colour: Whether the image is.

    Returns:
        FLOAT_DB for a float model. For a quantised one QUANTISED_DB, or MARGIN_DB less than
        `self_db` where that is less; on an image of one colour the same with `own_db`.
    """
    if noise is None:
        return FLOAT_DB
    bounds = [noise.self_db]
    if of_one_colour:
        bounds.append(noise.own_db)
    return min([QUANTISED_DB, *(db - MARGIN_DB for db in bounds if db is not None)])


def float_limit(threshold: float, counts: bool) -> float:
    """For float arithmetic of a runtime: `threshold` on every image.

    Args:
        threshold: Of the target at this dtype.
        counts: False for a part of a chain that is judged as a whole.
    """
    return threshold if counts else ANY_DB


def code_limit(threshold: float, counts: bool, is_photograph: bool) -> float:
    """For codes that a runtime's own tools chose: `threshold` on photographs.

    Elsewhere, on images that no calibration saw, the output has to be finite.

    Args:
        threshold: Of the target at this dtype.
        counts: False for a part of a chain that is judged as a whole.
        is_photograph: Whether the image is.
    """
    return threshold if counts and is_photograph else ANY_DB
