"""Geometry of tiles, by brute force over many lengths, tiles and halos."""

import itertools

import numpy as np
import pytest

from smoothsr.engine.tiles import grid, multiplicity, reflect, spans, spans_inside

AXES = [*itertools.product((1, 2, 4, 7), (0, 1, 2, 3, 6, 20))]
LENGTHS = (1, 2, 3, 5, 8, 13)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_reflect_bounces_as_numpy_does(length):
    expected = np.pad(np.arange(length), 30, mode="reflect")
    assert [reflect(index, length) for index in range(-30, length + 30)] == expected.tolist()


@pytest.mark.parametrize("length", LENGTHS)
def test_spans_partition_an_axis(length):
    for tile, halo in AXES:
        cut = spans(length, tile, halo)
        assert [i for span in cut for i in range(span.start, span.stop)] == [*range(length)]
        assert all(0 <= span.first <= span.start < span.stop <= span.last <= length for span in cut)
        assert all(span.stop - span.start == tile for span in cut[:-1])
        assert len({len(span.gather) for span in cut}) == 1, "all patches have one shape"


@pytest.mark.parametrize("length", LENGTHS)
def test_patch_is_its_own_real_pixels_and_their_reflection(length):
    image = np.random.default_rng(0).random(length)
    for span, tile, halo in [(span, *axis) for axis in AXES for span in spans(length, *axis)]:
        if length <= tile:
            assert (span.first, span.last, span.offset, span.gather) == (
                0,
                length,
                0,
                (*range(length),),
            )
            continue
        # It reads all that halo allows and no more, and has the tile at its offset.
        assert (span.first, span.last) == (
            max(0, span.start - halo),
            min(length, span.start + tile + halo),
        )
        real = image[span.first : span.last]
        before, after = halo - (span.start - span.first), span.start + tile + halo - span.last
        patch = real[list(span.gather)]
        assert (patch == np.pad(real, (before, after), mode="reflect")).all()
        assert (
            patch[span.offset : span.offset + span.stop - span.start]
            == image[span.start : span.stop]
        ).all()


@pytest.mark.parametrize(("height", "width"), [(7, 5), (1, 13), (9, 9)])
def test_multiplicity_counts_patches_at_the_busiest_pixel(height, width):
    for tile, halo in AXES:
        tiles = grid(height, width, tile, halo)
        reads = np.zeros((height, width), int)
        yields = np.zeros((height, width), int)
        for rows, columns in tiles:
            reads[rows.first : rows.last, columns.first : columns.last] += 1
            yields[rows.start : rows.stop, columns.start : columns.stop] += 1
        assert multiplicity(tiles) == reads.max()
        assert (yields == 1).all()
        assert sum(t.pixels for t in tiles) == reads.sum()


@pytest.mark.parametrize(
    ("tile", "halo", "expected"),
    [(8, 0, 1), (8, 2, 4), (8, 4, 4), (8, 5, 9), (8, 8, 9), (4, 8, 25)],
)
def test_multiplicity_of_large_images(tile, halo, expected):
    assert multiplicity(grid(80, 80, tile, halo)) == expected


def test_whole_image_is_one_tile_without_halo():
    for tile in (None, 9):
        (only,) = grid(9, 4, tile, 3)
        assert (only.rows.gather, only.columns.gather) == ((*range(9),), (*range(4),))
        assert not only.padded
        assert only.pixels == 36
        assert multiplicity([only]) == 1


def test_tiles_run_row_by_row_and_know_what_is_padded():
    tiles = grid(12, 12, 4, 2)
    assert [(t.rows.start, t.columns.start) for t in tiles] == [
        *itertools.product((0, 4, 8), (0, 4, 8))
    ]
    assert [t.padded for t in tiles] == [True, True, True, True, False, True, True, True, True]
    assert [t.pixels for t in tiles] == [36, 48, 36, 48, 64, 48, 36, 48, 36]


def test_a_short_image_along_one_axis_keeps_its_halo_along_the_other():
    tiles = grid(3, 12, 4, 2)
    assert len(tiles) == 3
    assert all(t.rows.gather == (0, 1, 2) and len(t.columns.gather) == 8 for t in tiles)


def test_a_halo_of_reflections_alone_is_refused_at_once():
    assert grid(5, 4, 2, 20)
    with pytest.raises(ValueError, match="halo must be at most 20 for an image of 4x5 pixels"):
        grid(5, 4, 2, 100_000_000)
    assert len(grid(5, 4, 8, 100_000_000)) == 1  # one tile, which needs none


@pytest.mark.parametrize("halo", [0, 1, 3, 9])
@pytest.mark.parametrize("tile", [1, 3, 4, 40])
def test_patches_inside_the_image_read_all_that_there_is_around_a_tile(tile, halo):
    for length in range(1, 20):
        cut = spans_inside(length, tile, halo)
        assert len({len(span.gather) for span in cut}) == 1
        covered = [pixel for span in cut for pixel in range(span.start, span.stop)]
        assert covered == [*range(length)]
        for span in cut:
            assert 0 <= span.first <= max(0, span.start - halo)
            assert min(length, span.stop + halo) <= span.last <= length
            assert span.gather == (*range(span.last - span.first),)
            assert span.first + span.offset == span.start
