from pathlib import Path

import numpy as np
import openslide
import pytest

from train.simulate_slides import SlideLook, render, write_slide


@pytest.mark.parametrize(("mpp", "width_px"), [(0.5, 512), (0.3, 853)])
def test_slide_of_another_resolution_covers_the_same_tissue(
    tmp_path: Path, mpp: float, width_px: int
) -> None:
    overviews = []
    for name, level_mpp, side_px in (("usual", 0.25, 1024), ("other", mpp, width_px)):
        look = SlideLook(width_um=256, mpp=level_mpp, stain=0.0)
        path = tmp_path / f"{name}.tif"
        write_slide(path, np.zeros(2), look, np.random.default_rng(0))
        with openslide.OpenSlide(path) as slide:
            assert slide.dimensions == (side_px, side_px)
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(level_mpp)
            pixels = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
            overviews.append(np.asarray(pixels.resize((64, 64)), dtype=float))
    assert np.abs(overviews[0] - overviews[1]).mean() < 3


def test_histology_latents_show_in_the_picture() -> None:
    """The first latent brings dark nuclei, the second glass inside the tissue."""
    shares = np.empty((2, 3, 2))
    for latent in range(2):
        for i, value in enumerate((-2.0, 0.0, 2.0)):
            histology = np.zeros(2)
            histology[latent] = value
            picture, tissue = render(histology, 1024, 0.0, np.random.default_rng(3))
            inside = picture[tissue].astype(int)
            shares[latent, i] = (inside[:, 0] < 140).mean(), (inside[:, 1] > 240).mean()
    nuclei, lumina = shares[0, :, 0], shares[1, :, 1]
    assert np.all(nuclei[1:] > 1.5 * nuclei[:-1])
    assert np.all(lumina[1:] > 1.5 * lumina[:-1])


def test_other_centre_stains_more_with_eosin() -> None:
    usual, strong = (
        render(np.zeros(2), 512, stain, np.random.default_rng(3))[0] for stain in (0.0, 0.2)
    )
    ratio = np.log(strong[256] / 244.0).sum(axis=0) / np.log(usual[256] / 244.0).sum(axis=0)
    # Green is mostly eosin's; red is haematoxylin's.
    assert ratio[1] > 1 > ratio[0]
