"""Biases that 32 bits hold, in files that ai-edge-quantizer quantises."""

import torch
from torch import nn

from export.targets.room_for_biases import with_room_for_biases

INT32 = 2.0**31


def network() -> nn.Sequential:
    """Two layers; a channel of the first has nearly no weight, one of the second none."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 2, 1, bias=False))
    with torch.no_grad():
        layers[0].weight[1] *= -1e-9
        layers[0].bias[1] = 3.0
        layers[1].weight[0] = 0.0
        layers[1].bias[0] = -0.5
    return layers.requires_grad_(False)


def codes_of_biases(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    input_step = (x.max().clamp(min=0) - x.min().clamp(max=0)) / 255
    return layer.bias / (input_step * layer.weight.flatten(1).abs().amax(1) / 127)


def test_biases_fit_and_nothing_else_changes():
    before = network()
    kept = {name: value.clone() for name, value in before.state_dict().items()}
    x = torch.rand(2, 3, 8, 8)
    after = with_room_for_biases(before, [(x[:1],), (x[1:],)])
    assert codes_of_biases(before[0], x).abs().max() > INT32
    assert codes_of_biases(after[0], x).abs().max() < 0.51 * INT32
    assert codes_of_biases(after[1], after[0](x)).abs().max() < 0.51 * INT32
    torch.testing.assert_close(after(x), before(x), rtol=0, atol=3e-4)
    assert after[0].weight[1].min() < 0  # the sign stays
    for name, value in before.state_dict().items():
        assert torch.equal(value, kept[name])
        if name != "0.weight" and name != "1.weight":
            assert torch.equal(after.state_dict()[name], value)
    assert torch.equal(after[0].weight[[0, 2, 3]], before[0].weight[[0, 2, 3]])
    assert torch.equal(after[1].weight[1], before[1].weight[1])


def test_a_network_with_room_stays_as_it_is():
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    after = with_room_for_biases(layers, [(torch.rand(1, 3, 3, 3),)])
    for name, value in layers.state_dict().items():
        assert torch.equal(after.state_dict()[name], value)


def test_an_input_of_zeros_says_nothing():
    layers = nn.Sequential(nn.Linear(2, 1)).requires_grad_(False)
    after = with_room_for_biases(layers, [(torch.zeros(1, 2),)])
    assert torch.equal(after[0].weight, layers[0].weight)
