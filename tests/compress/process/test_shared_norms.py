"""Padded tiles whose group norms share the statistics of all tiles."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from compress.process.shared_norms import (
    Place,
    SharedNorms,
    in_padded_tiles,
    padded_places,
    running_in_tiles,
)
from compress.process.tiling import tile_starts

X = torch.randn(2, 4, 20, 36, generator=torch.Generator().manual_seed(0)).double()
HOW = SharedNorms("encoder", "", tile=8, margin=4, scale=1)


def test_the_places_of_the_golden():
    assert padded_places(36, 8, 11) == [Place(0, 30, 0, 19), Place(8, 36, 19, 36)]
    assert padded_places(20, 8, 11) == [Place(0, 20, 0, 20)]
    found = padded_places(288, 64, 32)
    assert [(p.first, p.end) for p in found] == [(0, 128), (64, 192), (128, 256), (192, 288)]
    assert [p.keep_first for p in found] == [0, 96, 160, 224]


@pytest.mark.parametrize("tile", [8, 24, 32])
@pytest.mark.parametrize("length", range(16, 200, 8))
def test_what_is_kept_covers_a_side_once_and_is_read_with_its_margin(tile, length):
    places = padded_places(length, tile, margin=8)
    assert places[0].keep_first == 0
    assert places[-1].keep_end == length
    for one, other in pairwise(places):
        assert one.keep_end == other.keep_first
    for place in places:
        assert place.first == max(0, place.keep_first - 8)
        assert place.end == min(length, place.keep_end + 8)


def test_flush_tiles():
    assert tile_starts(36, 8, 2) == [0, 6, 11, 17, 22, 28]
    assert tile_starts(36, 8, 2, flush=True) == [0, 6, 12, 18, 24, 28]
    assert tile_starts(8, 8, 2, flush=True) == [0]


@torch.no_grad()
def test_one_norm_has_the_averages_of_the_tiles():
    norm = nn.GroupNorm(2, 4).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    rows, columns = padded_places(20, 8, 4), padded_places(36, 8, 4)
    tiles = [X[..., r.first : r.end, c.first : c.end] for r in rows for c in columns]
    pixels = torch.tensor([tile[0, 0].numel() for tile in tiles]).double()
    shares = (pixels / pixels.sum()).view(-1, 1, 1)
    grouped = [tile.flatten(2).unflatten(1, (2, 2)).flatten(2) for tile in tiles]
    mean = (torch.stack([g.mean(-1) for g in grouped]) * shares).sum(0)
    variance = (torch.stack([g.var(-1, correction=0) for g in grouped]) * shares).sum(0)
    each = [value.repeat_interleave(2, 1)[..., None, None] for value in (mean, variance)]
    expected = (X - each[0]) / (each[1] + norm.eps).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(in_padded_tiles(norm, norm, X, HOW), expected)
    assert not norm._forward_hooks


@torch.no_grad()
def test_a_network_without_norms_is_exact_within_its_margin():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2)
    ).double()
    how = SharedNorms("decoder", "", tile=8, margin=4, scale=2)
    whole = network(X)
    with running_in_tiles(network, how):
        found = network(X)
    torch.testing.assert_close(found, whole)
    assert torch.equal(network(X), whole)


def test_what_fails_on_one_tile_is_raised():
    norm = nn.GroupNorm(2, 4).double()

    def fails(piece: torch.Tensor) -> torch.Tensor:
        if piece.shape[-1] < 16:
            raise ValueError("too narrow")
        return norm(piece)

    with pytest.raises(ValueError, match="too narrow"):
        in_padded_tiles(norm, fails, X, HOW)
    assert not norm._forward_hooks
