"""Bags of CHIMERA's organisers, CLAM and TRIDENT, as they become ours."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_slides import (
    HALF_MPP,
    UNI,
    clam_attributes,
    coords_of,
    embeddings_of,
    make,
    trident_attributes,
    write_chimera,
    write_h5,
)
from mean_colour import write_tissue
from numpy.typing import NDArray
from synthetic import no_warning

from model.bags import bag_path, identify, read_bag, update_bag
from model.batch import Bag
from model.case import Case, SlideFile
from model.errors import CaseError, ConfigError
from model.foreign_bags import ForeignBags, check_slide_names
from model.patches import PatchSpec
from train.embed import embed_cohort


def check(bag: Bag, features: NDArray[Any], coords: NDArray[np.int64]) -> None:
    np.testing.assert_array_equal(bag.embeddings, features.astype(np.float32))
    assert (bag.embeddings.dtype, bag.coords.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(bag.coords, coords)
    assert bag.slide_index.tolist() == [0] * len(features)


# -- CHIMERA ---------------------------------------------------------------------------------------


def test_the_organisers_bags_become_ours(tmp_path: Path) -> None:
    """The case is named as in the download, and the slides need not be there."""
    features = embeddings_of()
    write_chimera(tmp_path / "features", "3A_001_HE", features)
    cases, maker = (
        [Case("3A_001"), Case("3A_002")],
        ForeignBags(tmp_path / "features", UNI, HALF_MPP),
    )
    embed_cohort(cases, maker, tmp_path / "bags", warn=no_warning, progress=lambda *_: None)
    check(read_bag(bag_path(tmp_path / "bags", "3A_001"), UNI, HALF_MPP), features, coords_of())
    assert not bag_path(tmp_path / "bags", "3A_002").exists()

    write_chimera(tmp_path / "features", "3A_001_HE", embeddings_of(3, seed=1))
    warnings: list[str] = []
    embed_cohort(cases, maker, tmp_path / "bags", warn=warnings.append, progress=lambda *_: None)
    assert len(warnings) == 1
    assert len(read_bag(bag_path(tmp_path / "bags", "3A_001"), UNI, HALF_MPP).embeddings) == 3


def test_a_resize_factor_is_no_other_patch_size(tmp_path: Path) -> None:
    features = embeddings_of()
    write_chimera(tmp_path, "C_HE", features, factor=1.93)
    check(make(tmp_path), features, coords_of())


def test_larger_bags_are_thinned_as_slides_are(tmp_path: Path) -> None:
    write_chimera(tmp_path, "C_HE", embeddings_of(6))
    few = HALF_MPP.model_copy(update={"most_patches": 4})
    taken = few.taken_of(6)
    check(make(tmp_path, spec=few), embeddings_of(6)[taken], coords_of(6)[taken])


def test_the_sources_are_features_and_coordinates(tmp_path: Path) -> None:
    write_chimera(tmp_path, "C_HE", embeddings_of())
    sources = ForeignBags(tmp_path, UNI, HALF_MPP).sources(Case("C"))
    assert [identify(path)["name"] for path in sources] == ["C_HE.pt", "C_HE.npy"]


def test_each_slide_of_a_case_has_its_bag(tmp_path: Path) -> None:
    features = [embeddings_of(4, seed=1), embeddings_of(2, seed=2)]
    for name, part in zip(("first", "second"), features, strict=True):
        write_h5(
            tmp_path / f"{name}.h5", part, coords_of(len(part)), attributes=trident_attributes()
        )
    case = Case("C", (SlideFile(Path("gone/first.svs")), SlideFile(Path("gone/second.svs"))))
    bag = make(tmp_path, case=case)
    np.testing.assert_array_equal(bag.embeddings, np.concatenate(features))
    assert bag.slide_index.tolist() == [0] * 4 + [1] * 2
    (tmp_path / "second.h5").unlink()
    assert ForeignBags(tmp_path, UNI, HALF_MPP).sources(case) == ()
    with pytest.raises(CaseError, match="expected a bag named second, found none"):
        make(tmp_path, case=case)


# -- TRIDENT ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["uni_v1", np.bytes_("uni_v1"), None])
def test_tridents_bags_are_read(tmp_path: Path, encoder: str | bytes | None) -> None:
    features = embeddings_of().astype(np.float16)
    write_h5(
        tmp_path / "features_uni_v1" / "C.h5",
        features,
        coords_of(),
        attributes=trident_attributes(),
        encoder=encoder,
    )
    check(make(tmp_path / "features_uni_v1"), features, coords_of())


def test_tridents_tensors_find_their_coordinates(tmp_path: Path) -> None:
    features = embeddings_of()
    (tmp_path / "features_uni_v1").mkdir()
    torch.save(torch.from_numpy(features), tmp_path / "features_uni_v1" / "C.pt")
    write_h5(
        tmp_path / "patches" / "C_patches.h5", None, coords_of(), attributes=trident_attributes()
    )
    check(make(tmp_path / "features_uni_v1"), features, coords_of())


def test_a_batch_of_one_slide_is_a_bag(tmp_path: Path) -> None:
    features = embeddings_of()
    write_h5(tmp_path / "C.h5", features[None], coords_of(), attributes=trident_attributes())
    check(make(tmp_path), features, coords_of())


# -- CLAM ------------------------------------------------------------------------------------------


def test_clams_bags_are_measured_with_the_slide(tmp_path: Path) -> None:
    features = embeddings_of()
    write_tissue(tmp_path / "slides" / "C.mha", seed=0)  # 1 µm/px
    case = Case("C", (SlideFile(tmp_path / "slides" / "C.mha"),))
    write_h5(tmp_path / "clam" / "h5_files" / "C.h5", features, coords_of())
    write_h5(
        tmp_path / "clam" / "patches" / "C.h5", None, coords_of(), attributes=clam_attributes(4.0)
    )
    spec = PatchSpec(mpp=4.0, size_px=224, stride_px=224)
    check(make(tmp_path / "clam", case=case, spec=spec), features, coords_of())
    with pytest.raises(ConfigError, match=r"at 0\.5 µm/px, found 224 px every 224 px at 4 µm/px$"):
        make(tmp_path / "clam", case=case)


def test_what_the_files_do_not_state_is_taken_from_the_config_with_a_warning(
    tmp_path: Path,
) -> None:
    features = embeddings_of()
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.from_numpy(features), tmp_path / "pt_files" / "C.pt")
    warnings: list[str] = []
    check(make(tmp_path, warn=warnings.append), features, np.zeros((5, 2), dtype=np.int64))
    assert warnings == [
        f"{tmp_path}: bags that do not state the size of patches in full; taken for 224 px at 0.5 "
        "µm/px",
        f"{tmp_path}: bags without coordinates; all patches are put at 0, 0",
    ]


def test_patches_that_other_programs_shrink_are_told(tmp_path: Path) -> None:
    attributes = trident_attributes(patch_size=256)
    del attributes["overlap"]  # none, then
    write_h5(tmp_path / "C.h5", embeddings_of(), coords_of(), attributes=attributes)
    warnings: list[str] = []
    spec = PatchSpec(mpp=0.5, size_px=256, stride_px=256)
    make(tmp_path, spec=spec, warn=warnings.append)
    assert warnings == [
        f"{tmp_path}: patches of 256 px, which most programs shrink to 224 px before they embed "
        "them, and the Predictor does not"
    ]


def test_patches_that_no_tokens_fill_are_shrunk_here_too(tmp_path: Path) -> None:
    attributes = trident_attributes(patch_size=250)
    write_h5(tmp_path / "C.h5", embeddings_of(), coords_of(), attributes=attributes)
    make(tmp_path, spec=PatchSpec(mpp=0.5, size_px=250, stride_px=250), warn=pytest.fail)


def test_clams_bags_are_taken_at_their_word_where_the_slide_is_gone(tmp_path: Path) -> None:
    write_h5(tmp_path / "C.h5", embeddings_of(), coords_of(), attributes=clam_attributes(4.0))
    warnings: list[str] = []
    bag = make(tmp_path, case=Case("C", (SlideFile(tmp_path / "C.svs"),)), warn=warnings.append)
    check(bag, embeddings_of(), coords_of())
    stated = "bags that do not state the size of patches in full; taken for 224 px at 0.5 µm/px"
    assert warnings == [f"{tmp_path}: {stated}"]


def test_features_that_lie_by_column_can_be_written(tmp_path: Path) -> None:
    by_column = torch.from_numpy(embeddings_of()).T.contiguous().T
    write_chimera(tmp_path, "C_HE", embeddings_of())
    torch.save(by_column, tmp_path / "features" / "C_HE.pt")
    maker = ForeignBags(tmp_path, UNI, HALF_MPP)
    update_bag(tmp_path / "C.safetensors", Case("C"), maker, warn=no_warning)
    written = read_bag(tmp_path / "C.safetensors", UNI, HALF_MPP)
    np.testing.assert_array_equal(written.embeddings, embeddings_of())


def test_the_file_of_the_features_knows_better(tmp_path: Path) -> None:
    """Patches that were cut anew lie beside the features of those before."""
    write_h5(
        tmp_path / "h5_files" / "C.h5",
        embeddings_of(),
        coords_of(),
        attributes=trident_attributes(),
    )
    other = trident_attributes(patch_size=512)
    write_h5(tmp_path / "patches" / "C.h5", None, coords_of(), attributes=other)
    np.testing.assert_array_equal(make(tmp_path).embeddings, embeddings_of())


def test_a_case_without_a_slide_has_one_bag(tmp_path: Path) -> None:
    for seed, name in enumerate(("C_HE", "C")):
        write_h5(
            tmp_path / f"{name}.h5",
            embeddings_of(seed=seed),
            coords_of(),
            attributes=trident_attributes(),
        )
    np.testing.assert_array_equal(make(tmp_path).embeddings, embeddings_of(seed=0))


def test_two_slides_of_one_name_cannot_share_a_bag(tmp_path: Path) -> None:
    slides = [tmp_path / patient / "HE.svs" for patient in ("P1", "P2")]
    for slide in slides:
        slide.parent.mkdir()
        slide.touch()
    check_slide_names(tmp_path, slides)  # there is no bag of that name
    write_h5(tmp_path / "HE.h5", embeddings_of(), coords_of())
    check_slide_names(tmp_path, [slides[0], slides[0], tmp_path / "P3" / "other.svs"])
    link = tmp_path / "link" / "HE.svs"
    link.parent.mkdir()
    link.symlink_to(slides[0])
    check_slide_names(tmp_path, [slides[0], link])  # which is the same slide
    expected = f"HE.h5: expected one slide of that name, found {slides[0]}, {slides[1]}"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check_slide_names(tmp_path, slides)
