"""The distance of streams."""

import torch

from shear_lit.theory.streams import stream_distance


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distance_is_relative_to_the_length_of_the_other_stream():
    ours, theirs, gates = draw(3, 5), draw(3, 5, seed=1), torch.tensor([1.0, 0.0, 0.5, 1.0, 0.25]).double()
    wanted = torch.stack(
        [
            sum(g * (a - b) ** 2 for a, b, g in zip(one, other, gates, strict=True))
            / sum(g * b**2 for b, g in zip(other, gates, strict=True))
            for one, other in zip(ours, theirs, strict=True)
        ]
    )
    torch.testing.assert_close(stream_distance(ours, theirs, gates), wanted)
    torch.testing.assert_close(stream_distance(100 * ours, 100 * theirs, gates), wanted)
    torch.testing.assert_close(
        stream_distance(ours, theirs), stream_distance(ours, theirs, torch.ones(5).double())
    )


def test_distance_of_equal_streams_is_0_and_of_nothing_1():
    theirs = draw(4, 6)
    assert not stream_distance(theirs, theirs).any()
    torch.testing.assert_close(stream_distance(torch.zeros_like(theirs), theirs), torch.ones(4).double())
    assert bool(stream_distance(theirs, torch.zeros_like(theirs)).isfinite().all())


def test_narrow_streams_are_compared_in_float32():
    ours, theirs = draw(2, 8).bfloat16(), draw(2, 8, seed=1).bfloat16()
    found = stream_distance(ours, theirs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, stream_distance(ours.float(), theirs.float()), rtol=0, atol=0)
