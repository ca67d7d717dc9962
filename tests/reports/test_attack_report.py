"""What is said and drawn of an attack: honest words, and a figure that shows what was measured."""

import pytest
import torch

from smoothsr.reports import attack_report
from smoothsr.reports.attack_report import Outcome


def outcomes(bare, smoothed):
    """Flat outputs that move by so many 8-bit steps; their clean values are 100 and 90."""
    flat = torch.ones(1, 3, 12, 12) / 255
    return [
        Outcome("bare", 100 * flat, (100 + bare) * flat),
        Outcome("smoothed", 90 * flat, (90 + smoothed) * flat),
    ]


@pytest.mark.parametrize(
    ("bare", "smoothed", "reference", "verdict"),
    [
        (10, 5, None, "held better by 6.02 dB"),
        (5, 10, None, "did worse by 6.02 dB"),
        (5, 5, None, "made no difference"),
        (
            10,
            5,
            115,
            "did worse by 12.04 dB",
        ),  # 5 from the truth against 20: it holds still, but in the wrong place
    ],
)
def test_words_are_honest(bare, smoothed, reference, verdict):
    truth = None if reference is None else torch.full((1, 3, 12, 12), reference / 255)
    rows = attack_report.rows(
        [*outcomes(bare, smoothed), Outcome("again", *outcomes(1, 1)[1][1:])], truth, 2
    )
    text = attack_report.words(*rows)
    assert text.startswith(f"Smoothing {verdict}{':' if truth is None else ', '}")
    assert ("; without the attack it did worse by 4.44 dB, 20.17 dB against 24.61 dB;" in text) == (
        truth is not None
    )
    assert ("ground truth" in text) == (reference is not None)
    assert "\n" not in text
    assert len({len(line) for line in attack_report.table(rows).splitlines()}) == 1


@pytest.mark.parametrize(("bare", "smoothed", "noise"), [(0, 0, 1), (9, 2, 2), (1, 9, 9)])
def test_what_fresh_noise_does_is_not_blamed_on_the_attack(bare, smoothed, noise):
    again = Outcome("again", *outcomes(0, noise)[1][1:])
    text = attack_report.words(*attack_report.rows([*outcomes(bare, smoothed), again], None, 2))
    assert text.startswith(
        "The smoothed output moved hardly further than by fresh noise alone: the smoothed output "
    )
    assert ("the bare output did not change" in text) == (not bare)


def test_an_output_that_does_not_change_is_said_to():
    again = Outcome("again", *outcomes(0, 1)[1][1:])
    text = attack_report.words(*attack_report.rows([*outcomes(0, 9), again], None, 2))
    assert text.startswith("Smoothing did worse: the smoothed output is at 29.0")
    assert text.endswith("the bare output did not change.")
    assert "inf" not in text


def test_nan_is_not_called_equal():
    flat = torch.ones(1, 3, 12, 12)
    with pytest.raises(ValueError, match="NaN values: try another precision"):
        attack_report.rows([Outcome("bare", flat, flat * torch.nan)], None, 2)


def test_panel_shows_one_colour_scale_and_marks_values_outside():
    lr = torch.full((1, 3, 6, 6), 0.5)
    pair = outcomes(40, 3)
    outside = torch.zeros(1, 3, 12, 12, dtype=torch.bool)
    outside[0, 1, 4, 7] = outside[0, 2, 4, 7] = True
    figure = attack_report.panel(lr, lr + 4 / 255, pair, None, outside)
    maps = [axis.images[0] for axis in figure.axes[7:9]]
    assert maps[0].get_clim() == maps[1].get_clim() == (0, 40)
    assert [set(image.get_array().ravel()) for image in maps] == [{40}, {3}]
    titles = [axis.get_title() for axis in figure.axes]
    assert any("x31" in title for title in titles)
    assert any("2 values outside the certificate" in title for title in titles)
    assert figure.axes[8].collections[0].get_offsets().tolist() == [[7, 4]]
    assert figure.axes[9].get_ylabel().startswith("8-bit steps")
