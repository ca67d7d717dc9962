"""Patches: a pure function of seed, step and number; pairs that fit each other; the cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import png_16
from PIL import Image

from smoothsr.files.images import ImageError
from smoothsr.training.patches import Pair, Patches, cache


def picture(path, size=(40, 48), seed=0):
    """A smooth colour image, whose places differ."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def pairs_of(tmp_path, *paths, scale=2, channels=3, factors=(1,)):
    return list(cache(paths, tmp_path / "cache", scale=scale, channels=channels, factors=factors))


def test_a_batch_depends_on_seed_step_and_number_alone(tmp_path):
    pairs = pairs_of(tmp_path, *(picture(tmp_path / f"{i}.png", seed=i) for i in range(3)))
    patches, again = Patches(pairs, 8, seed=1), Patches(pairs, 8, seed=1)
    again.batch(0, range(3))
    whole = patches.batch(5, range(4))
    parts = [again.batch(5, numbers) for numbers in (range(2), range(2, 4))]
    for one, two in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(two))
    assert len({image.numpy().tobytes() for image in whole[0]}) == 4
    others = (patches.batch(6, range(4)), Patches(pairs, 8, seed=2).batch(5, range(4)))
    for other in others:
        assert not torch.equal(other[0], whole[0])


def test_lr_and_hr_show_the_same_place_turned_alike(tmp_path):
    patches = Patches(pairs_of(tmp_path, picture(tmp_path / "a.png"), scale=2), 8)
    seen = set()
    for step in range(20):
        lr, hr = patches.batch(step, range(1))
        assert lr.shape == (1, 3, 8, 8)
        assert hr.shape == (1, 3, 16, 16)
        mean = torch.nn.functional.avg_pool2d(hr, 2)
        assert (mean - lr).abs().mean() < 0.01
        seen.add(lr.numpy().tobytes())
    assert len(seen) == 20


def test_all_places_and_turns_come_up(tmp_path):
    ramp = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    pair = Pair(ramp, ramp)  # at scale 1
    found = {
        tuple((255 * Patches([pair], 2).batch(step, range(1))[0]).round().int().flatten().tolist())
        for step in range(2000)
    }
    # Nine places, eight symmetries each; the least detailed places are as likely as others here.
    assert len(found) == 72


def test_large_images_count_for_more():
    small, large = (np.full((1, side, side), value, np.uint8) for side, value in ((4, 0), (8, 255)))
    patches = Patches([Pair(small, small), Pair(large, large)], 4)
    shares = np.mean([patches.batch(step, range(1))[0].mean().item() for step in range(500)])
    assert shares == pytest.approx(0.8, abs=0.06)  # by area; of two equal candidates the first


def test_the_more_detailed_of_two_places_is_taken():
    flat = np.zeros((1, 8, 8), np.uint8)
    busy = np.indices((8, 8)).sum(0)[None].astype(np.uint8) % 2 * 255
    patches = Patches([Pair(flat, flat), Pair(busy, busy)], 4)
    shares = [patches.batch(step, range(1))[0].mean().item() > 0 for step in range(500)]
    assert np.mean(shares) == pytest.approx(0.75, abs=0.06)


def test_degradations_are_chosen_among_and_seeded(tmp_path):
    pairs = pairs_of(tmp_path, picture(tmp_path / "a.png"))
    seeds = []

    def darken(lr, seed):
        seeds.append(seed)
        return lr * 0

    patches = Patches(pairs, 8, degradations=[darken, lambda lr, _: lr])
    dark = [not patches.batch(step, range(1))[0].any() for step in range(200)]
    assert np.mean(dark) == pytest.approx(0.5, abs=0.12)
    assert len({*seeds}) == len(seeds)
    assert all(patches.batch(step, range(1))[1].any() for step in range(20))  # HR stays


def test_the_cache_is_used_again_and_sees_changes(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png")
    first = pairs_of(tmp_path, path)[0]
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr("smoothsr.files.images.read", lambda _: pytest.fail("decoded twice"))
        again = pairs_of(tmp_path, path)[0]
    assert np.array_equal(first.hr, again.hr)
    assert isinstance(again.hr, np.memmap)
    picture(path, size=(60, 60), seed=5)
    assert pairs_of(tmp_path, path)[0].hr.shape == (3, 60, 60)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc tells of open files")
def test_images_take_no_open_files(tmp_path):
    """Of thousands, a process may have a thousand open."""
    pictures = [picture(tmp_path / f"{name}.png", seed=name) for name in range(12)]
    before = len([*Path("/proc/self/fd").iterdir()])
    patches = Patches(pairs_of(tmp_path, *pictures), 8)
    for step in range(12):
        patches.batch(step, range(2))
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 2


def test_16_bits_stay_and_gray_becomes_colour(tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, (8, 10), np.uint16)
    (tmp_path / "deep.png").write_bytes(png_16(values[..., None]))
    pair = pairs_of(tmp_path, tmp_path / "deep.png")[0]
    assert pair.hr.dtype == pair.lr.dtype == np.uint16
    assert np.array_equal(pair.hr, np.stack([values] * 3))
    _, hr = Patches([pair], 4).batch(0, range(1))
    assert hr.max() <= 1
    assert hr.std() > 0.1


def test_images_are_cut_to_multiples_and_reduced(tmp_path):
    path = picture(tmp_path / "a.png", size=(41, 50))
    whole, half = pairs_of(tmp_path, path, scale=4, factors=(1, 2))
    assert whole.hr.shape == (3, 48, 40)
    assert whole.lr.shape == (3, 12, 10)
    assert half.hr.shape == (3, 24, 20)
    small = Image.open(path).resize((20, 24), Image.Resampling.BICUBIC)
    assert np.abs(half.hr - np.asarray(small).transpose(2, 0, 1).astype(float)).max() <= 1


def test_what_can_not_be_learned_from_is_refused(tmp_path):
    path = picture(tmp_path / "a.png")
    with pytest.raises(ImageError, match="the network is gray, and the image in colour"):
        pairs_of(tmp_path, path, channels=1)
    with pytest.raises(ImageError, match="40x48 pixels are too few"):
        pairs_of(tmp_path, path, scale=4, factors=(20,))
