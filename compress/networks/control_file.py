"""Read a control network from a file in diffusers' layout."""

from compress.networks.control import ControlNetwork
from compress.networks.released_file import fill, released_state

CONTROL = "the control network's diffusion_pytorch_model.safetensors"
# CCSR v2 was published with the layers of an image condition beside those that it uses.
IMAGE_CONDITION = "controlnet_cond_embedding."


def load_control(
    network: ControlNetwork, path: str, key: str = "controlnet", wanted: str = CONTROL
) -> None:
    """Fill a control network, which may be on the meta device.

    Args:
        network: Of the file's form and widths. Layers of an image condition that it does not have
            are left in the file.
        path: The file.
        key: The recipe's key that names it.
        wanted: The file's name, for the sentence of an error.

    Raises:
        UserError: The file is wrong or incomplete; the first names that do not fit are told.
    """
    state = released_state(path, key, wanted)
    if not hasattr(network, IMAGE_CONDITION.rstrip(".")):
        state = {n: t for n, t in state.items() if not n.startswith(IMAGE_CONDITION)}
    fill([network], state, f"{key}: {path}", wanted)
