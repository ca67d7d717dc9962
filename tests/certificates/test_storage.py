"""A Certificate as a record: saved, loaded, pickled, printed; files that were changed are refused,
and nothing in them runs.
"""

import dataclasses
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from oracles import LinearSR
from synthetic_certificates import ALPHA, SIGMA, made, trivial

from smoothsr import SmoothedSR
from smoothsr.certificates import storage
from smoothsr.certificates.certificate import Certificate


@pytest.mark.parametrize(
    "certificate",
    [made(), trivial(), made(tile=None, halo=0, channels=1)],
    ids=["tiled", "trivial", "whole"],
)
def test_files_give_back_every_bit(certificate, tmp_path):
    certificate.save(tmp_path / "a.npz")
    loaded = Certificate.load(tmp_path / "a.npz")
    for field in dataclasses.fields(Certificate):
        before, after = getattr(certificate, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert (type(before), before) == (type(after), after)
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_files_of_the_format_before_are_read(tmp_path):
    certificate, path = made(), tmp_path / "a.npz"
    certificate.save(path)
    with np.load(path) as file:
        options = json.loads(str(file["options"])) | {"format": 3}
    text = json.dumps(options, sort_keys=True)
    arrays = {name: getattr(certificate, name) for name in ("sr_bytes", "z", "mean")}
    arrays |= {"upper": certificate.upper, "lower": certificate.lower}
    digest = storage._content_digest(text, arrays)
    np.savez_compressed(path, options=np.array(text), digest=np.array(digest), **arrays)
    loaded = Certificate.load(path)
    np.testing.assert_array_equal(loaded.upper, certificate.upper)
    np.testing.assert_array_equal(loaded.lower, certificate.lower)
    assert loaded.summary() == certificate.summary()


def test_levels_that_differ_little_take_little_room(tmp_path):
    """Smooth levels of a noisy picture: the noise is stored once, and not with each level."""
    noisy = np.random.default_rng(0).integers(60, 190, (1, 3, 160, 200), dtype=np.uint8)
    rise = np.arange(5, dtype=np.uint8)[:, None, None, None]
    tall = made(tile=None, halo=0, sides=(80, 100), upper=noisy + rise, lower=noisy - rise)
    tall.save(tmp_path / "a.npz")
    np.testing.assert_array_equal(Certificate.load(tmp_path / "a.npz").lower, noisy - rise)
    assert (tmp_path / "a.npz").stat().st_size < 4 * noisy.size < 2 * tall.upper.size


def test_levels_need_not_rise(tmp_path):
    """Differences below 0 and above 255 come back too: they are taken modulo 256."""
    wild = np.random.default_rng(0).integers(0, 256, made().upper.shape, dtype=np.uint8)
    made(upper=wild, lower=wild[::-1]).save(tmp_path / "a.npz")
    loaded = Certificate.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded.upper, wild)
    np.testing.assert_array_equal(loaded.lower, wild[::-1])


def test_levels_may_lie_in_memory_as_they_like(tmp_path):
    certificate = made()
    turned = made(upper=np.asfortranarray(certificate.upper), lower=certificate.lower[::-1][::-1])
    for name, each in (("a.npz", certificate), ("b.npz", turned)):
        each.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_files_have_room_for_levels_of_any_size(tmp_path):
    """Sizes of 64 bits, which a .zip has from version 4.5, for stacks of more than 2 GiB."""
    made().save(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.getinfo("upper_differences.npy").extract_version >= 45


def test_numbers_of_numpy_can_be_kept(tmp_path):
    lr = torch.full((1, 1, 4, 4), 0.5)
    smoothed = SmoothedSR(LinearSR(), np.float32(0.05), np.int64(3), tile=np.int32(4), seed=1)
    numbers = {"n": np.int64(200), "alpha": np.float32(0.25), "levels": np.int16(4)}
    smoothed.certify(lr, **numbers).save(tmp_path / "c.npz")
    assert Certificate.load(tmp_path / "c.npz").n_cert == 200
    assert smoothed.certify(lr, n=2e2, levels=4).n_cert == 200
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1, got 2.5"):
        smoothed.certify(lr, n=2.5)


def test_truncated_files(tmp_path):
    whole, part = tmp_path / "whole.npz", tmp_path / "part.npz"
    made().save(whole)
    content = whole.read_bytes()
    for length in (0, 3, 100, len(content) // 2, len(content) - 1):
        part.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is no certificate"):
            Certificate.load(part)


def test_files_with_a_changed_byte(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    content = path.read_bytes()
    refused = 0
    places = range(7, len(content), 7)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            loaded = Certificate.load(path)
        except ValueError:
            refused += 1
        else:  # a byte of the container that says nothing, such as a date
            np.testing.assert_array_equal(loaded.upper, made().upper)
    assert refused > 0.85 * len(places)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", 1e-9, "was changed"),
        ("void", True, "was changed"),
        ("n_serve", 2001, "was changed"),
        ("extra", 1, "was changed"),
        ("format", 2, "format version 2, this program reads 3 to 4: certify again"),
        ("format", 3, "is no certificate"),
        ("format", None, "is no certificate"),
    ],
)
def test_files_with_changed_options(name, value, message, tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    options = {**json.loads(str(arrays["options"])), name: value}
    if value is None:
        del options[name]
    np.savez(path, **{**arrays, "options": np.array(json.dumps(options))})
    with pytest.raises(ValueError, match=message):
        Certificate.load(path)


def test_files_with_changed_bounds(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["upper_differences"][1, 0, 0, 0] -= 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="was changed"):
        Certificate.load(path)


@pytest.mark.parametrize("stack", [np.array(1), np.zeros(3, "datetime64[s]"), np.zeros(2, "u1,u1")])
def test_files_with_something_else_for_bounds(stack, tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    with np.load(path) as file:
        arrays = dict(file) | {"upper_differences": stack}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"is no certificate|was changed"):
        Certificate.load(path)


class Danger:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


def foreign():
    array, objects, other = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    names = ("sr_bytes", "z", "upper", "lower", "digest")
    np.savez(
        objects, options=np.array([Danger()], dtype=object), **dict.fromkeys(names, np.zeros(1))
    )
    np.savez(other, options=np.array("[1, 2]"), **dict.fromkeys(names, np.zeros(1)))
    pickled = pickle.dumps(Danger())
    return [
        b"",
        b"hello\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        array.getvalue(),
        objects.getvalue(),
        other.getvalue(),
        pickled,
    ]


@pytest.mark.parametrize(
    "content", foreign(), ids=["empty", "text", "png", "npy", "objects", "list", "pickle"]
)
def test_foreign_files(content, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz is no certificate") as found:
        Certificate.load(path)
    assert "\n" not in str(found.value)


def test_a_missing_file_is_that(tmp_path):
    with pytest.raises(FileNotFoundError):
        Certificate.load(tmp_path / "none.npz")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    made().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        dataclasses.replace(made(), dtype=object()).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_pickle():
    certificate = made()
    copy = pickle.loads(pickle.dumps(certificate))
    assert copy.summary() == certificate.summary()
    np.testing.assert_array_equal(copy.lower, certificate.lower)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().alpha = 0.5


def test_repr():
    assert repr(made()) == (
        "Certificate(10x8, sigma=0.1, median of n_serve=21, n_cert=1000, alpha=0.01, "
        "scope='image', tile=2, halo=1, max_radius=0.2)"
    )
    assert repr(trivial()).endswith("trivial)")
    assert "VOID" in repr(made(void=True))


def test_summary_says_under_which_conditions():
    certificate = made()
    summary = json.loads(json.dumps(certificate.summary()))
    assert summary == certificate.summary() | {"lr_shape": [3, 4, 5]}
    expected = {
        "agg": "median",
        "n_serve": 21,
        "n_cert": 1000,
        "scope": "image",
        "values_at_once": 3 * 8 * 10,
        "alpha": ALPHA,
        "sigma": SIGMA,
        "tile": 2,
        "halo": 1,
        "multiplicity": 4,
        "tiles": 6,
        "levels": 5,
        "dtype": "float32",
        "max_radius": 0.2,
        "serving_noise": "fresh",
        "certification_noise": "fresh",
        "input_digest": "0" * 64,
        "weights_digest": "1" * 64,
    }
    assert {name: summary[name] for name in expected} == expected
    assert "ideal" in made(seeded=True).summary()["serving_noise"]
    assert "VOID" in made(void=True).summary()["certification_noise"]
    assert made(scope="pixel").summary()["values_at_once"] == 3
    json.dumps(trivial().summary())
    assert certificate.rms(0.2) == pytest.approx(
        0.2 * 255 / 60**0.5
    )  # as if every value changed by that much
