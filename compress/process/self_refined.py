"""AddSR's prediction-based self-refinement (arXiv 2404.01717), between the steps of a chain.

From the second step on, the networks see what the decoder makes of the step before, blended with
the enlarged input (`compress.networks.resizing.Refined`). The hint of the control network and the
image tokens are made of it anew.
"""

from collections.abc import Sequence
from dataclasses import replace

from compress.process.epsilon_chains import renoised
from compress.process.linear_steps import CLEAN, Between, LinearSteps

CONDITION, HINT, TOKENS = "condition", "hint", "image_tokens"
VISUAL_INPUT = "visual_input"  # the image that tokens are made of
DECODED = "decoded"
REFINED_CONDITION, REFINED_INPUT = "refined_condition", "refined_visual_input"
REFINED_HINT, REFINED_TOKENS = "refined_hint", "refined_image_tokens"
CALLS = (
    Between("decoder", (CLEAN,), (DECODED,)),
    Between("refine", (DECODED, CONDITION), (REFINED_CONDITION, REFINED_INPUT)),
    Between("hint", (REFINED_CONDITION,), (REFINED_HINT,)),
    Between("tokens", (REFINED_INPUT,), (REFINED_TOKENS,)),
)
SEEN = {HINT: REFINED_HINT, TOKENS: REFINED_TOKENS}


def self_refined(timesteps: Sequence[int], start: str = "lr") -> LinearSteps:
    """A chain that noises its clean latent anew, with refinement between its steps.

    Its model has the components `decoder`, `refine` (decoded image, enlarged input -> condition,
    image of the tokens), `hint` (condition -> hint of the control network) and `tokens`, and the
    value `condition`, the enlarged input float [B, 3, 4h, 4w] in [0, 1]. One step is not refined.

    Args:
        timesteps: Descending, from 0 to 999.
        start: `lr` or `noise`, see `compress.process.epsilon_chains.first_state`.

    Raises:
        UserError: The timesteps are none, do not descend or lie outside.
    """
    chain = renoised(timesteps, start)
    if chain.steps == 1:
        return chain
    first, *later = chain.rows
    rows = (first, *(replace(row, instead=SEEN) for row in later))
    return replace(chain, rows=rows, inputs=(*chain.inputs, CONDITION), between=CALLS)
