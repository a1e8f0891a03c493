"""What an explanation's pictures show: whose patches, which way up, in which colour and scale."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from mean_colour import write_tissue
from small_bundles import PATCHES
from test_explain_parts import patches_of

from model import explain_pictures, explain_slides
from model.batch import Bag
from model.case import Case, SlideFile
from model.explain_patches import Patches, Pixels, View, gather
from model.explain_pictures import LOWERS, RAISES, contribution_bars, heatmap, sheet
from model.patches import PatchSpec
from model.slide import Slide


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures, in place of their files."""
    figures: list[Figure] = []

    def collect(figure: Figure, title: str, note: str) -> bytes:
        figures.append(figure)
        return b""

    monkeypatch.setattr(explain_pictures, "_png", collect)
    return figures


def test_the_pictures_of_a_slide_are_of_its_own_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slides, whose leading patches are numbered by attention over both."""
    files = [tmp_path / "s0.mha", tmp_path / "s1.mha"]
    for seed, file in enumerate(files):
        write_tissue(file, seed=seed, side_px=150)
    coords = torch.tensor([[0, 0], [64, 0], [0, 64], [0, 0], [64, 64]])
    bag = Bag(torch.zeros(5, 3), coords, torch.tensor([0, 0, 0, 1, 1]))
    patches = gather(bag, np.array([0.1, 0.2, 0.05, 0.25, 0.4]), np.arange(5.0))
    maps, squares_of, sheets = [], [], []
    read = explain_slides.read_squares

    def note_map(title: str, view: View, own: Patches, numbered: dict[int, int]) -> bytes:
        maps.append((own.coords.tolist(), numbered))
        return b""

    def note_squares(slide: Slide, own: Patches, spec: PatchSpec) -> list[Pixels]:
        squares_of.append(own.coords.tolist())
        return read(slide, own, spec)

    def note_sheet(title: str, squares: dict[int, Pixels], leading: Patches, um: float) -> bytes:
        sheets.append((list(squares), leading.coords.tolist()))
        return b""

    monkeypatch.setattr(explain_slides, "LEADING", 3)
    monkeypatch.setattr(explain_slides, "heatmap", note_map)
    monkeypatch.setattr(explain_slides, "read_squares", note_squares)
    monkeypatch.setattr(explain_slides, "sheet", note_sheet)
    case = Case("C", tuple(map(SlideFile, files)))
    found = explain_slides.explain_slides("t", case, patches, PATCHES, warn=pytest.fail)
    assert maps == [([[0, 0], [64, 0], [0, 64]], {1: 3}), ([[0, 0], [64, 64]], {0: 2, 1: 1})]
    assert squares_of == [[[64, 0]], [[0, 0], [64, 64]]]
    assert sheets == [([1, 2, 3], [[64, 64], [0, 0], [64, 0]])]
    assert [(p.number, p.slide, p.x, p.y) for p in found.leading] == [
        (1, "s1.mha", 64, 64),
        (2, "s1.mha", 0, 0),
        (3, "s0.mha", 64, 0),
    ]
    assert [slide.attention for slide in found.slides] == pytest.approx([0.35, 0.65])
    assert [slide.contribution for slide in found.slides] == [3.0, 7.0]


def test_the_sheet_names_each_patchs_own_numbers(drawn: list[Figure]) -> None:
    two, zeros = np.array([1.0, 2.0]), np.zeros((2, 2), dtype=np.int64)
    leading = Patches(zeros, zeros[:, 0], two, two, two, np.array([0.5, -0.25]))
    square = np.zeros((4, 4, 3), np.uint8)
    sheet("t", {1: square, 2: square}, leading, 64.0)
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in drawn[0].axes]
    assert titles == [
        "1   1.00 × mean attention\nrisk +0.5 SD",
        "2   2.00 × mean attention\nrisk −0.25 SD",
    ]


def test_bars_that_raise_the_risk_are_orange(drawn: list[Figure]) -> None:
    contribution_bars("t", {"all": [("up", 0.5), ("down", -0.25)]})
    up, down = (to_hex(bar.get_facecolor()).upper() for bar in drawn[0].axes[0].patches)
    assert (up, down) == (RAISES, LOWERS) == ("#D55E00", "#0072B2")


@pytest.mark.parametrize(("mpp", "text", "length_um"), [(0.25, "2 mm", 2000), (0.002, "10 µm", 10)])
def test_the_scale_is_true(drawn: list[Figure], mpp: float, text: str, length_um: int) -> None:
    white = np.full((300, 1400, 3), 255, np.uint8)
    view = View(white, downsample=(40.0, 40.0), mpp=mpp, side_px=10)
    heatmap("t", view, patches_of([1.0]), {})
    words = [words for axes in drawn[0].axes for words in axes.texts if words.get_text() == text]
    line = words[0].axes.lines[-1]
    assert np.ptp(line.get_xdata()) == pytest.approx(length_um / (mpp * 40))


def test_the_heatmap_has_the_slides_top_at_the_top(drawn: list[Figure]) -> None:
    view = View(np.full((60, 90, 3), 200, np.uint8), downsample=(1.0, 1.0), mpp=0.5, side_px=10)
    heatmap("t", view, patches_of([0.2, 0.8]), {1: 1})
    for axes in drawn[0].axes[:2]:
        low, high = axes.get_ylim()
        assert low > high


def test_every_word_lies_on_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names may be as long as TCGA's, and pictures as narrow as a panel."""
    save, checked = Figure.savefig, []

    def look(figure: Figure, *args: object, **options: object) -> None:
        save(figure, *args, **options)
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
            checked.append(text.get_text())

    monkeypatch.setattr(Figure, "savefig", look)
    name = "TCGA-2F-A9KO-01Z-00-DX1.195576CF-B739-4BD9-B15B-4A70AE287D3E"
    contribution_bars(
        f"Case {name}: 65 % of the training patients have a lower risk\n"
        "Its risk +0.16 is the reference patient's +0.12 and what is below",
        {"modalities": [("slide", 0.04)]},
    )
    heads = [text for text in checked if name in text.replace("\n", "")]
    assert len(heads) == 1
    assert len(heads[0].splitlines()) > 2
    assert any("not for clinical use" in text for text in checked)
