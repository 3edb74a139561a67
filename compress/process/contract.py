"""What a process is: the arithmetic round the components of the steps.

A model hands its process the values that it reads, and `Steps`. The process calls the components of
a step as often as it likes, any other component between two steps, and gives the clean latent.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch


class Steps(Protocol):
    """What a process may call. A model runs it on whole maps, or in tiles.

    A process that only predicts may be given a plain function instead.
    """

    def __call__(
        self, state: torch.Tensor, *timesteps: torch.Tensor, **values: Any
    ) -> torch.Tensor:
        """The prediction of one step.

        Args:
            state: What the components of the step see, [B, C, h, w].
            timesteps: int64 [B], of a process of several steps.
            values: What they read instead of the values of these names from before the process.

        Raises:
            ValueError: A name in `values` is read by no component of a step.
        """

    def call(self, component: str, *inputs: Any) -> Any:
        """What any component makes of other inputs than it has in the model's run.

        Args:
            component: Its name, such as the decoder's between two steps.
            inputs: Its arguments, in the order of its `Call`. A pass may have made it a constant,
                which gives the same whatever they are.

        Returns:
            One tensor, or a tuple for a component of several outputs.

        Raises:
            KeyError: The model calls no such component.
        """


class Process(Protocol):
    """The arithmetic of a model.

    Attributes:
        inputs: Names of the values that it reads, the first of which `restore` is given first.
        period: Pixels of the latent after which its noise repeats itself; 1 without noise.
        steps: How often the components of a step are called; the most where it is adaptive.
        adaptive: Whether the number of steps depends on the image. On the meta device, where
            tensors have no values, such a process takes all of its `steps`: so a plan counts the
            most that a run can cost.
        factors: Of one step: the clean latent as a weighted sum of what is read and the prediction.
            None for several.
    """

    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102  said above
    @property
    def period(self) -> int: ...  # noqa: D102  said above
    @property
    def steps(self) -> int: ...  # noqa: D102  said above
    @property
    def adaptive(self) -> bool: ...  # noqa: D102  said above
    @property
    def factors(self) -> Mapping[str, float] | None: ...  # noqa: D102  said above

    @property
    def restore(self) -> Callable[..., torch.Tensor]:
        """(value of inputs[0], Steps, *values of inputs[1:]) -> the clean latent [B, C, h, w]."""
