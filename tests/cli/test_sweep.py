"""`smoothsr sweep`: what it calls best is best, and its certificates have the alpha that a choice
among them needs.
"""

import errno
import json
from functools import partial

import numpy as np
import pytest
import torch
from evaluation_runs import counted, error_of, leftovers, photo, write
from PIL import Image

from smoothsr import Certificate, SmoothedSR, adapters, metrics
from smoothsr.adapters.compact import Compact
from smoothsr.attacks.views import seed_of
from smoothsr.cli import main
from smoothsr.files.digests import fingerprint

SIGMAS = (0.3, 0.0, 0.05)
CERTIFIED = (
    "--sigma",
    "0.05,0.1",
    "--tile",
    "2,4",
    "--halo",
    "1",
    "--n-cert",
    "150",
    "--levels",
    "3",
    "--radius",
    "0,0.03",
)


@pytest.fixture
def hr(tmp_path):
    return write(tmp_path / "hr", a=photo(1, 16, 20), b=photo(2, 16, 16))


@pytest.fixture
def net(tmp_path):
    """A network that is quick to certify."""
    torch.manual_seed(0)
    torch.save(Compact(3, 8, 2, 4).state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def sweep(hr, out, over, *more):
    return [str(word) for word in ("sweep", "--hr", hr, "--over", over, "-o", out, *more)]


def records(out):
    return json.loads((out / "sweep.json").read_text())["records"]


def certificates(out):
    """{(image, sigma, tile): certificate} of one model."""
    found = {}
    for path in (out / "parts").glob("*.npz"):
        made = Certificate.load(path)
        found[path.name.split("_")[0], made.sigma, made.tile] = made
    return found


def test_the_best_sigma_is_that_of_outputs_made_here(hr, tmp_path, capsys):
    out = tmp_path / "out"
    options = [
        "--sigma",
        "0.3,0,0.05",
        "-n",
        "3",
        "--attack",
        "none,noise:0.3",
        "--metrics",
        "psnr,mse",
    ]
    assert main(sweep(hr, out, "sigma", *options)) == 0
    printed = capsys.readouterr().out
    network, means = adapters.load("builtin").model, {}
    for record in records(out):
        means.setdefault((record["condition"], record["sigma"]), []).append(
            record["scores"]["psnr"]
        )
    for sigma in SIGMAS:
        values = []
        for name, size in (("a", (4, 5)), ("b", (4, 4))):
            reference = photo(1 if name == "a" else 2, 4 * size[0], 4 * size[1])
            lr = (
                torch.nn.functional.interpolate(reference, size, mode="bicubic", antialias=True)
                .clamp(0, 1)
                .mul(255)
                .round()
                / 255
            )
            serving = seed_of(seed_of(0, name), "serving")
            with torch.no_grad():
                output = SmoothedSR(network, sigma, 3, seed=serving)(lr) if sigma else network(lr)
            values.append(metrics.psnr(output, reference, border=4).item())
        assert np.mean(means["none", sigma]) == pytest.approx(np.mean(values), rel=1e-4)
    for condition in ("none", "noise:0.3"):
        top = max(SIGMAS, key=lambda sigma: np.mean(means[condition, sigma]))
        how = f"sigma {top:g}, n 3" if top else "bare"
        assert (
            f"builtin, {condition}: best psnr is {np.mean(means[condition, top]):.2f}, {how}"
            in printed
        )
    assert "measure it on others" in printed
    with Image.open(out / "sweep.png") as figure:
        assert figure.format == "PNG"
        assert min(figure.size) > 300
    assert {path.name for path in out.iterdir()} == {
        "parts",
        *(f"sweep.{suffix}" for suffix in ("md", "csv", "json", "png")),
    }


def test_a_sweep_over_n_goes_on_where_it_was(hr, tmp_path, monkeypatch):
    out, outputs = tmp_path / "out", counted(monkeypatch)
    options = ["--attack", "none", "--metrics", "psnr", "--sigma", "0.05"]
    assert main(sweep(hr, out, "n", *options, "-n", "1,5")) == 0
    assert len(outputs) == 4
    assert main(sweep(hr, out, "n", *options, "-n", "1,3,5")) == 0
    assert len(outputs) == 6
    assert [(record["n"], record["sigma"]) for record in records(out)[:3]] == [
        (1, 0.05),
        (3, 0.05),
        (5, 0.05),
    ]
    assert (out / "sweep.png").exists()


def test_certificates_share_alpha_and_the_best_is_best(hr, net, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(sweep(hr, out, "certified", "-m", net, *CERTIFIED, "--alpha", "0.04", "-n", "5")) == 0
    )
    printed, made = capsys.readouterr().out, certificates(out)
    assert set(made) == {
        (name, sigma, tile) for name in "ab" for sigma in (0.05, 0.1) for tile in (2, 4)
    }
    weights = fingerprint(adapters.load(net).model)
    for certificate in made.values():
        assert certificate.alpha == 0.04 / 4
        assert (
            certificate.n_cert,
            certificate.level_count,
            certificate.n_serve,
            certificate.halo,
        ) == (150, 3, 5, 1)
        assert (certificate.scope, certificate.seeded, certificate.void) == ("image", False, False)
        assert certificate.weights_digest == weights
    assert "alpha 0.04 / 4 candidates = 0.01" in printed
    assert "confidence 0.96." in printed
    assert "agg median, fresh noise, float32" in printed
    assert "A mean speaks of all 2 images at once: with confidence 0.92 at least." in printed
    references = {"a": photo(1, 16, 20), "b": photo(2, 16, 16)}
    for record in records(out):
        certificate = made[record["image"], record["sigma"], record["tile"]]
        norm, size = record["condition"].split()
        radius = float(size) if norm == "l2" else float(size.removesuffix("/255")) / 255
        reference = references[record["image"]]
        ask = partial(certificate.psnr, radius, predictor="ideal", norm=norm)
        assert record["scores"] == {
            "ideal certified PSNR": ask(reference),
            "ideal certified PSNR to its own output": ask(),
            "PSNR without an attack": metrics.psnr(certificate.sr, reference).item(),
        }
    assert {record["condition"] for record in records(out)} >= {"linf 0.5/255", "linf 1/255"}
    assert (out / "sweep.png").exists()
    for radius in (0, 0.03):
        psnr = {
            key: found.psnr(radius, references[key[0]], predictor="ideal")
            for key, found in made.items()
        }
        means = {
            (sigma, tile): (psnr["a", sigma, tile] + psnr["b", sigma, tile]) / 2
            for _, sigma, tile in made
        }
        (sigma, tile), top = max(means.items(), key=lambda item: item[1])
        line = (
            f"net, l2 {radius:g}: best ideal certified PSNR is {top:.2f}, sigma {sigma:g}, n 5, "
            f"tile {tile}, halo 1"
        )
        assert f"- {line}" in printed.splitlines()
    assert "sigma 0 is" not in printed
    assert leftovers(out) == []


def test_models_to_choose_from_are_candidates_too(hr, net, tmp_path):
    other = tmp_path / "other.pth"
    torch.manual_seed(1)
    torch.save(Compact(3, 8, 2, 4).state_dict(), other)
    options = ["--sigma", "0.1", "--tile", "4", "--n-cert", "150", "--levels", "3", "--crop", "3"]
    assert main(sweep(hr, tmp_path / "out", "certified", "-m", net, other, *options)) == 0
    made = [Certificate.load(path) for path in (tmp_path / "out" / "parts").glob("*.npz")]
    assert [certificate.alpha for certificate in made] == [1e-3 / 2] * 4
    assert {certificate.lr_shape for certificate in made} == {(3, 3, 3)}
    assert len({certificate.weights_digest for certificate in made}) == 2


def test_certificates_are_not_redrawn(hr, net, tmp_path, monkeypatch):
    out, drawn, certify = tmp_path / "out", [], SmoothedSR.certify

    def watched(self, lr, **options):
        drawn.append((self.sigma, self.tile))
        return certify(self, lr, **options)

    monkeypatch.setattr(SmoothedSR, "certify", watched)
    command = sweep(hr, out, "certified", "-m", net, *CERTIFIED, "-n", "5")
    assert main(command) == 0
    assert len(drawn) == 8
    table, files = (
        (out / "sweep.csv").read_bytes(),
        {path: path.read_bytes() for path in (out / "parts").iterdir()},
    )
    [*files][3].unlink()  # as if killed before it
    assert main(command) == 0
    assert len(drawn) == 9
    kept = [path for path in files if path.read_bytes() == files[path]]
    assert len(kept) == 7
    assert (out / "sweep.csv").read_bytes() != table
    table = (out / "sweep.csv").read_bytes()
    assert main([*command, "--radius", "0.01"]) == 0
    assert main(command) == 0
    assert len(drawn) == 9
    assert (out / "sweep.csv").read_bytes() == table
    assert main([*command, "--n-cert", "151"]) == 0
    assert len(drawn) == 17
    assert main([*command, "--sigma", "0.05"]) == 0  # half as many candidates, so another alpha
    assert len(drawn) == 21


@pytest.mark.parametrize("own", [False, True])
def test_tiles_are_drawn_side_by_side_by_networks_of_known_classes(
    own, hr, net, tmp_path, monkeypatch
):
    """Of a user's own class nothing is known."""
    asked, certify = set(), SmoothedSR.certify

    def watched(self, lr, **options):
        asked.add(self.side_by_side)
        return certify(self, lr, **options)

    monkeypatch.setattr(SmoothedSR, "certify", watched)
    (tmp_path / "net.py").write_text(
        "from smoothsr.adapters.compact import Compact\n"
        "class Net(Compact):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 8, 2, 4)\n"
    )
    arch = ["--arch", f"{tmp_path / 'net.py'}:Net"] if own else []
    assert main(sweep(hr, tmp_path / "out", "certified", "-m", net, *CERTIFIED, *arch)) == 0
    assert asked == {not own}


@pytest.mark.parametrize("first", [0, 1])
def test_processes_share_the_certificates(hr, net, tmp_path, first, monkeypatch, capsys):
    out = tmp_path / "out"
    (hr / "c.png").write_text("no image")  # of process 0
    command = sweep(hr, out, "certified", "-m", net, *CERTIFIED, "--sigma", "0.1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(first))
    assert main(command) == 0
    assert {image for image, _, _ in certificates(out)} == {"ba"[1 - first]}
    assert not (out / "sweep.md").exists()
    monkeypatch.setenv("RANK", str(1 - first))
    assert main(command) == 2
    shared, files = (
        (out / "sweep.csv").read_bytes(),
        {path: path.read_bytes() for path in (out / "parts").iterdir()},
    )
    monkeypatch.undo()
    assert main(command) == 2
    assert "c: " in capsys.readouterr().err
    assert (out / "sweep.csv").read_bytes() == shared
    assert {path: path.read_bytes() for path in (out / "parts").iterdir()} == files
    assert {record["image"] for record in records(out)} == {"a", "b"}


def test_gray_images_have_certificates_of_one_channel(net, tmp_path):
    """Three channels would be another norm: every radius off by the root of three."""
    folder = write(tmp_path / "gray", a=photo(1, 16, 16, channels=1))
    assert (
        main(sweep(folder, tmp_path / "out", "certified", "-m", net, *CERTIFIED, "--sigma", "0.1"))
        == 0
    )
    assert {certificate.lr_shape for certificate in certificates(tmp_path / "out").values()} == {
        (1, 4, 4)
    }


def test_mistakes_are_one_line(hr, net, tmp_path, capsys):
    def wrong(over, *more):
        scored = [] if over == "certified" else ["--attack", "none", "--metrics", "psnr"]
        return error_of(capsys, sweep(hr, tmp_path / "out", over, "-m", net, *scored, *more))

    assert "--sigma greater than 0: the bare network has no certificate" in wrong(
        "certified", "--sigma", "0,0.1"
    )
    assert "--alpha between 0 and 1, got 0.00196078 and 2" in wrong("certified", "--alpha", "2")
    assert "--radius and --linf must be at least 0" in wrong("certified", "--radius", "-1")
    assert "--over certified takes one -n, got 2" in wrong("certified", "-n", "5,7")
    assert "--over sigma takes one -n, got 2" in wrong("sigma", "-n", "5,7")
    assert "--over n takes one --sigma, greater than 0" in wrong("n", "--sigma", "0.1,0.2")
    assert "--over n takes one --sigma, greater than 0" in wrong("n", "--sigma", "0")
    assert "--over sigma takes one --tile, one --halo and one --halo-noise" in wrong(
        "sigma", "--tile", "2,4"
    )
    assert "--halo-noise must be at least 1, got 0.5" in wrong("certified", "--halo-noise", "2,0.5")
    assert "n must be odd" in wrong("n", "-n", "1,2")
    assert "n must be odd" in wrong("certified", "-n", "4")
    assert "sigma must be greater than 0" in wrong("certified", "--sigma=-1,.1")
    assert "speaks of the median" in wrong("certified", "--agg", "p10")
    assert "--radius and --linf must be at least 0" in wrong("certified", "--linf", "-1")
    assert "--n-cert must be at least 1 and --levels at least 2, got 0 and 32" in wrong(
        "certified", "--n-cert", "0"
    )
    assert "got 1000 and 1" in wrong("certified", "--levels", "1")
    assert not list(tmp_path.glob("out/*"))


def test_a_broken_certificate_is_made_anew(hr, net, tmp_path):
    command = sweep(
        hr, tmp_path / "out", "certified", "-m", net, *CERTIFIED, "--predictor", "served"
    )
    assert main(command) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out" / "parts").glob("*.npz")}
    broken = [*files][2]
    broken.write_bytes(files[broken][:500])
    assert main(command) == 0
    assert len(Certificate.load(broken).z) == 3
    assert [path for path in files if path.read_bytes() != files[path]] == [broken]
    names = {f"served expected certified PSNR{end}" for end in ("", " to its own output")}
    names.add("PSNR without an attack")
    assert {*records(tmp_path / "out")[0]["scores"]} == names


def test_a_certificate_that_a_disk_fails_to_give_is_kept(hr, net, tmp_path, monkeypatch, capsys):
    """Else other draws would replace it: the first ones count."""
    command = sweep(hr, tmp_path / "out", "certified", "-m", net, *CERTIFIED)
    assert main(command) == 0
    files = {path: path.read_bytes() for path in (tmp_path / "out" / "parts").glob("*.npz")}

    def failing(*_, **__):
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(np, "load", failing)
        assert main(command) == 2
    assert "smoothsr: a, b: [Errno 5] input/output error" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "parts").glob("*.npz")} == files
