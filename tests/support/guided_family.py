"""A tiny family under classifier-free guidance: a text encoder with two prompts, two calls a step.

Its families' configs have guidance at full size alone.
"""

from dataclasses import replace

import torch
from support.tiny_families import tiny_family
from transformers import CLIPTextConfig, CLIPTextModel

from compress.model.sr_model import SRModel
from compress.networks.latent_diffusion import Conditioned, PromptEncoder
from compress.process.epsilon_chains import contexts, guided

GUIDANCE = 2.5
TOKENS, WORDS = 5, 50


def guided_family(name: str, steps: int = 2, first: int = 0, autoencoder: bool = False) -> SRModel:
    """A model with random weights.

    Args:
        name: A key of `support.tiny_families.MODELS`, of a chain of weighted sums.
        steps: Of the chain; from 2, so that the networks take timesteps.
        first: The first step that is guided.
        autoencoder: As `tiny_family` has it.
    """
    model = tiny_family(name, steps, autoencoder)
    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=model.denoiser.context.shape[2],
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        eos_token_id=WORDS - 1,
    )
    ids = torch.randint(0, WORDS, (2, TOKENS))
    model.text_encoder = PromptEncoder(CLIPTextModel(config), ids)
    for _, part in model.components():
        if isinstance(part, Conditioned):
            part.context = None
    model.put_process(guided(model.process, GUIDANCE, first))
    read = contexts(model.process)
    calls = tuple(
        replace(call, outputs=read) if call.component == "text_encoder" else call
        for call in model.wiring.calls
    )
    model.wiring = replace(model.wiring, calls=calls)
    return model.eval().requires_grad_(False)
