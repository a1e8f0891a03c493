"""Slides without tissue: left out where something else can tell of the case, refused elsewhere."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from job_files import CHIMERA, CLINICAL, RNA, no_warning
from jobs import write_glass
from mean_colour import PATCHES, mean_colour, write_tissue
from synthetic import tissue_slide

from model.bags import SlideEmbedder, bag_path
from model.case import Case, Record, SlideFile
from model.cohort_check import check_case
from model.errors import CaseError, NoTissueError
from model.fusion.base import FusionConfig
from model.patches import PatchSpec
from model.predictor import Predictor
from train.embed import embed_cohort
from train.pyramid import write_mask_pyramid

LENIENT = FusionConfig(optional=("slide",))


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture
def glass(tmp_path: Path) -> SlideFile:
    return SlideFile(write_glass(tmp_path / "glass.tif"))


@pytest.fixture
def tissue(tmp_path: Path) -> SlideFile:
    write_tissue(tmp_path / "tissue.mha", seed=0)
    return SlideFile(tmp_path / "tissue.mha")


def left_out(slide: SlideFile) -> str:
    return f"{slide.path}: expected tissue, found none; the slide is left out"


def test_a_case_is_scored_by_what_else_it_has(
    glass: SlideFile, contents: dict[str, Any], lenient_predictor: Predictor
) -> None:
    records = {
        "rna": Record(contents[RNA], Path("rna.json")),
        "clinical": Record(contents[CLINICAL], Path("clinical.json")),
    }
    case = Case("C0", (glass,), **records, default_mpp=CHIMERA.default_mpp)
    found = lenient_predictor.predict(case, progress=ignore)
    assert found.modalities == ("rna", "clinical")
    assert found.time == lenient_predictor.predict(Case("C0", **records), progress=ignore).time
    assert left_out(glass) in found.warnings

    said: list[str] = []
    check_case(lenient_predictor, case, warn=said.append)
    assert left_out(glass) in said


def test_a_case_of_nothing_else_is_refused(glass: SlideFile, lenient_predictor: Predictor) -> None:
    message = f"case C0: {glass.path}: expected tissue, found none"
    with pytest.raises(NoTissueError, match="^" + re.escape(message) + "$"):
        lenient_predictor.predict(Case("C0", (glass,)), progress=ignore)


def test_where_the_mask_has_tissue_and_the_slide_one_colour_there_is_none(
    tmp_path: Path, glass: SlideFile
) -> None:
    """As where a file lacks its tiles: the background's colour stands for them."""
    mask = tmp_path / "mask.tif"
    write_mask_pyramid(mask, np.ones((87, 100), dtype=bool), 4.0, downsamples=(1,))
    embedder = SlideEmbedder(mean_colour(), PATCHES, FusionConfig())
    message = f"{glass.path}: expected tissue, found patches of one colour alone"
    with pytest.raises(NoTissueError, match="^" + re.escape(message) + "$"):
        embedder.make(Case("C0", (SlideFile(glass.path, mask),)), warn=no_warning)


def test_embeddings_are_finite(tissue: SlideFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a network that overflows in float16 are not."""
    monkeypatch.setattr(
        "model.predictor.embed_patches",
        lambda encoder, read, coords, **_: torch.full((len(list(read(coords))), 3), torch.nan),
    )
    embedder = SlideEmbedder(mean_colour(), PATCHES, FusionConfig())
    expected = "expected finite embeddings, found others from encoder "
    with pytest.raises(CaseError, match=re.escape(f"{tissue.path}: {expected}")):
        embedder.make(Case("C0", (tissue,)), warn=no_warning)


def test_patches_of_one_colour_are_told(tmp_path: Path) -> None:
    picture, _ = tissue_slide(512, 256, seed=0)
    picture[:, :128] = 200
    slide, mask = tmp_path / "slide.tif", tmp_path / "mask.tif"
    tifffile.imwrite(slide, picture, tile=(64, 64), compression="lzw", metadata=None)
    write_mask_pyramid(mask, np.ones((64, 128), dtype=bool), 4.0, downsamples=(1,))
    spec, said = PatchSpec(mpp=1.0, size_px=64, stride_px=64), []
    case = Case("C0", (SlideFile(slide, mask),), default_mpp=1.0)
    bag = SlideEmbedder(mean_colour(), spec, FusionConfig()).make(case, warn=said.append)
    assert bag is not None
    assert len(bag.embeddings) == 32
    assert said[1:] == [
        f"{slide}: 8 of 32 patches are of one colour, as where a slide has no pixels"
    ]


@pytest.mark.parametrize("settings", [LENIENT, FusionConfig()])
def test_other_slides_of_the_case_are_kept(
    glass: SlideFile, tissue: SlideFile, settings: FusionConfig
) -> None:
    maker, said = SlideEmbedder(mean_colour(), PATCHES, settings), []
    bag = maker.make(Case("C0", (glass, tissue)), warn=said.append)
    alone = maker.make(Case("C0", (tissue,)), warn=no_warning)
    assert bag is not None
    assert alone is not None
    assert torch.equal(bag.embeddings, alone.embeddings)
    assert bag.slide_index.unique().tolist() == [1]
    assert said == [left_out(glass)]


def test_training_goes_on_without_a_bag_where_slides_are_optional(
    tmp_path: Path, glass: SlideFile
) -> None:
    case, said = Case("C0", (glass,), clinical=Record({"age": 70}, Path("clinical.json"))), []
    maker = SlideEmbedder(mean_colour(), PATCHES, LENIENT)
    embed_cohort([case], maker, tmp_path / "bags", warn=said.append, progress=ignore)
    assert not bag_path(tmp_path / "bags", "C0").exists()
    assert said == [left_out(glass)]
