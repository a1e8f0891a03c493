"""A case is explained: contributions that add up to its risk, and pictures of its slides."""

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jobs import refuse_constant
from linear_fusion import Linear, member_of
from PIL import Image
from small_bundles import PATCHES, build_bundle
from synthetic import no_warning
from toy_bundles import CLINICAL, CLINICAL_TEXT, RNA, make_bundle
from toy_fusions import DIMS

from model.batch import Bag, Batch
from model.bundle import Bundle
from model.case import Case, Record, SlideFile
from model.errors import ConfigError
from model.explain import Explanation, _equation, explain_case
from model.explain_files import clear_files
from model.explain_gradients import TOLERANCE
from model.predictor import Predictor
from model.rna import RnaSpec

CPU = torch.device("cpu")

# -- a case ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(contents: dict[str, Any]) -> Case:
    from job_files import CLINICAL as RECORD
    from job_files import MASK, SLIDE
    from job_files import RNA as PROFILE

    return Case(
        "C1",
        slides=(SlideFile(contents[SLIDE], contents[MASK]),) * 2,
        rna=Record(contents[PROFILE], Path("rna.json")),
        clinical=Record(contents[RECORD], Path("cd.json")),
    )


@pytest.fixture(scope="module")
def bag(lenient_predictor: Predictor, case: Case) -> Bag:
    found = lenient_predictor.embed(case, warn=no_warning, progress=lambda done, total: None)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def explained(
    lenient_predictor: Predictor,
    case: Case,
    bag: Bag,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Explanation, Path]:
    folder = tmp_path_factory.mktemp("explained")
    return explain_case(
        lenient_predictor, case, bag, folder, bundle_sha256="", warn=no_warning
    ), folder / "C1"


def read(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse_constant)


@pytest.mark.slow
def test_the_explanation_is_of_the_prediction(
    explained: tuple[Explanation, Path], lenient_predictor: Predictor, case: Case, bag: Bag
) -> None:
    found = read(explained[1] / "explanation.json")
    assert found["risk"] == lenient_predictor.risk(case, bag, warn=no_warning)
    total = found["reference_risk"] + sum(found["modalities"].values()) + found["unexplained"]
    assert total == pytest.approx(found["risk"], abs=1e-9)
    assert abs(found["unexplained"]) <= TOLERANCE
    assert list(found["modalities"]) == ["slide", "rna", "clinical"]
    assert found["members"] == len(found["gradient_steps"]) == 2
    assert found["notice"].startswith("research software, not for clinical use. random weights")
    assert found["notes"] == []
    genes = sum(gene["contribution"] for gene in found["genes"]) + found["other_genes"]
    assert len(found["genes"]) == 20
    assert genes == pytest.approx(found["modalities"]["rna"], abs=1e-6)
    columns = sum(column["contribution"] for column in found["clinical"])
    assert columns == pytest.approx(found["modalities"]["clinical"], abs=1e-6)
    recorded = {column["name"]: column["value"] for column in found["clinical"]}
    assert recorded["age"] == str(case.clinical.values["age"])
    sizes = [abs(column["contribution"]) for column in found["clinical"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
def test_every_file_is_there_and_whole(explained: tuple[Explanation, Path]) -> None:
    explanation, folder = explained
    assert {path.name for path in folder.iterdir()} == {
        "attention_1_slide.geojson",
        "attention_1_slide.png",
        "attention_2_slide.geojson",
        "attention_2_slide.png",
        "contributions.png",
        "explanation.json",
        "leading_patches.png",
    }
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 400
            assert np.asarray(picture.convert("RGB")).std() > 5
    assert [slide.heatmap for slide in explanation.slides] == [
        "attention_1_slide.png",
        "attention_2_slide.png",
    ]


@pytest.mark.slow
def test_a_slide_with_a_long_name_gets_its_pictures(
    lenient_predictor: Predictor, case: Case, bag: Bag, tmp_path: Path
) -> None:
    named = tmp_path / f"{'é' * 120}.tif"  # 244 bytes
    named.symlink_to(case.slides[0].path)
    longer = replace(case, slides=(SlideFile(named), *case.slides[1:]))
    explain_case(lenient_predictor, longer, bag, tmp_path, bundle_sha256="", warn=no_warning)
    assert len([path for path in (tmp_path / "C1").iterdir() if "attention_1" in path.name]) == 2


@pytest.mark.slow
def test_qupath_gets_squares_in_level_0_pixels(
    explained: tuple[Explanation, Path], lenient_predictor: Predictor, case: Case, bag: Bag
) -> None:
    explanation, folder = explained
    weights = []
    for member in lenient_predictor.bundle.members:
        batch = member.collate([member.inputs(case, bag, warn=no_warning)])
        with torch.no_grad():
            weights.append(member.fusion.attention(batch)[0].double().numpy())
    expected = np.mean(weights, axis=0)
    features = []
    for index in (1, 2):
        found = read(folder / f"attention_{index}_slide.geojson")
        assert (found["type"], found["case_id"]) == ("FeatureCollection", "C1")
        assert found["notice"] == "research software, not for clinical use"
        features += found["features"]
    assert len(features) == len(bag.coords)
    for feature, (x, y), attention in zip(
        features, bag.coords.tolist(), expected.tolist(), strict=True
    ):
        ring = [[x, y], [x + 256, y], [x + 256, y + 256], [x, y + 256], [x, y]]
        assert feature["geometry"] == {"type": "Polygon", "coordinates": [ring]}
        assert feature["properties"]["objectType"] == "detection"
        assert uuid.UUID(feature["id"]).version == 5
        measured = feature["properties"]["measurements"]
        assert measured["Attention"] == pytest.approx(attention, abs=1e-9)
        below = 100 * ((expected < attention).mean() + (expected == attention).mean() / 2)
        assert measured["Attention percentile"] == pytest.approx(below, abs=1e-3)
    contributions = [f["properties"]["measurements"]["Risk contribution (SD)"] for f in features]
    assert sum(contributions) == pytest.approx(explanation.modalities["slide"], abs=1e-6)
    assert sum(slide.attention for slide in explanation.slides) == pytest.approx(1, abs=1e-6)
    best = explanation.leading_patches[0]
    assert [best.x, best.y] in [
        bag.coords[i].tolist() for i in np.flatnonzero(expected == expected.max())
    ]
    assert len(explanation.leading_patches) == min(12, len(bag.coords))


# -- what cannot be explained ----------------------------------------------------------------------


def explain_toy(
    bundle: Bundle, tmp_path: Path, *, slides: int = 1, bag: Bag | None = None
) -> tuple[Explanation, list[str], set[str]]:
    """Explain a toy case; return its explanation, the warnings and the files."""
    draw = np.random.default_rng(0)
    case = Case(
        "C2",
        slides=tuple(SlideFile(tmp_path / f"gone{index}.tif") for index in range(slides)),
        rna=Record(dict(zip(RNA.genes, draw.normal(8, 2, DIMS.genes), strict=True)), Path("r")),
        clinical=Record({"Age": 81, "stage": "T1HG"}, Path("c")),
    )
    said: list[str] = []
    predictor = Predictor(bundle, weights_dirs=[], device=CPU)
    found = explain_case(predictor, case, bag, tmp_path / "out", bundle_sha256="", warn=said.append)
    return found, said, {path.name for path in (tmp_path / "out" / "C2").iterdir()}


def toy_bag(count: int = 6, *, step: int = 100) -> Bag:
    draw = torch.Generator().manual_seed(0)
    return Bag(
        embeddings=torch.randn(count, DIMS.embedding, generator=draw),
        coords=torch.arange(count)[:, None] * torch.tensor([step, 0]),
        slide_index=torch.zeros(count, dtype=torch.int64),
    )


def test_a_fusion_without_attention_gets_the_rest(tmp_path: Path) -> None:
    bundle = make_bundle("pibd", patches=PATCHES)
    found, said, files = explain_toy(bundle, tmp_path, bag=toy_bag())
    line = "attention: pibd weighs no patches, so there is no heatmap and no leading patch"
    assert line in said
    assert tuple(said) == found.notes
    assert files == {"contributions.png", "explanation.json"}
    assert list(found.modalities) == ["slide", "rna"]
    assert found.half_of_attention is None


def test_contributions_that_do_not_add_up_are_told(tmp_path: Path) -> None:
    bundle = make_bundle("ccl", patches=PATCHES)
    members = tuple(replace(member, risk_sd=0.05) for member in bundle.members)
    found, said, _ = explain_toy(replace(bundle, members=members), tmp_path, bag=toy_bag())
    assert found.modalities["slide"] == 0  # its clusters let no gradient through
    assert abs(found.unexplained) > TOLERANCE
    assert said[0] == (
        f"contributions: {found.unexplained:+.3f} SD of the risk is left unexplained, since ccl is "
        "not smooth, or hides an input from its gradient"
    )


def test_slides_that_are_gone_leave_the_rest(tmp_path: Path) -> None:
    found, said, files = explain_toy(make_bundle(patches=PATCHES), tmp_path, bag=toy_bag())
    assert said == [
        f"slide 1: no pictures: {tmp_path}/gone0.tif: expected an image file, found no file"
    ]
    assert files == {"contributions.png", "explanation.json"}
    assert found.slides == ()
    assert [patch.number for patch in found.leading_patches] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slides", "step", "reason"),
    [
        (1, 0, "the bag: expected coordinates, found every patch at one place"),
        (0, 100, "the case: expected the slide of its bag, found no file named"),
    ],
)
def test_bags_of_other_programs_may_lack_what_pictures_need(
    tmp_path: Path, slides: int, step: int, reason: str
) -> None:
    bundle = make_bundle(patches=PATCHES)
    _, said, _ = explain_toy(bundle, tmp_path, slides=slides, bag=toy_bag(step=step))
    assert said == [f"slide 1: no pictures: {reason}"]


def test_equal_attention_is_told_unless_there_is_one_patch(tmp_path: Path) -> None:
    line = "attention: every patch has the same, so those that lead are merely the first"
    bundle = make_bundle("meanpool", patches=PATCHES)
    for count, is_told, half in ((7, True, 4), (1, False, 1)):
        found, said, _ = explain_toy(bundle, tmp_path, bag=toy_bag(count))
        assert (line in said) == is_told
        assert found.half_of_attention == half


def test_a_case_without_slides(tmp_path: Path) -> None:
    bundle = build_bundle(modalities=("clinical",))
    found, said, files = explain_toy(bundle, tmp_path, slides=0)
    assert said == []
    assert (list(found.modalities), found.genes) == (["clinical"], ())
    assert files == {"contributions.png", "explanation.json"}


def test_what_an_earlier_explanation_left_is_cleared(tmp_path: Path) -> None:
    for name in ("attention_1_a.png", "contributions.png.0badf00d.part", "mine.png"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    clear_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match=r"out/C2: expected a folder to write in, found "):
        explain_toy(build_bundle(modalities=("clinical",)), tmp_path, slides=0)


# -- members of an ensemble ------------------------------------------------------------------------


def test_members_are_averaged_by_the_names_of_genes(tmp_path: Path) -> None:
    """Each member may use its own genes, in its own order."""
    other = RnaSpec(
        genes=("X", *RNA.genes[:0:-1]),
        scale="log",
        mean=np.full(DIMS.genes, 6.0),
        sd=np.full(DIMS.genes, 2.0),
        max_missing=0.2,
    )
    one, two = Linear(1), Linear(2)
    members = (member_of(one), replace(member_of(two, risk_sd=1.0), rna=other))
    bundle = replace(make_bundle(), members=members)
    found, _, _ = explain_toy(bundle, tmp_path, slides=0)
    values = dict(zip(RNA.genes, np.random.default_rng(0).normal(8, 2, DIMS.genes), strict=True))
    genes = {gene.name: gene for gene in found.genes}
    assert set(genes) == {"X", *RNA.genes}
    first = (values["G0"] - RNA.mean[0]) / RNA.sd[0]
    assert genes["G0"].distance == pytest.approx(first, abs=1e-5)
    assert genes["G0"].contribution == pytest.approx(first * one.v[0].item() / 2 / 2, abs=1e-5)
    here = (values["G3"] - RNA.mean[3]) / RNA.sd[3]
    there = (values["G3"] - 6.0) / 2.0
    place = other.genes.index("G3")
    expected = (here * one.v[3].item() / 2 + there * two.v[place].item()) / 2
    assert genes["G3"].distance == pytest.approx((here + there) / 2, abs=1e-5)
    assert genes["G3"].contribution == pytest.approx(expected, abs=1e-5)


def test_a_clinical_column_is_all_of_its_entries(tmp_path: Path) -> None:
    fusion = Linear()
    bundle = replace(make_bundle(), members=(member_of(fusion),))
    found, _, _ = explain_toy(bundle, tmp_path, slides=0)
    columns = {column.name: column for column in found.clinical}
    assert {name: column.value for name, column in columns.items()} == {
        "age": "81",
        "stage": "T1HG",
    }
    assert CLINICAL.columns == ("age", "age=missing", "stage=t1hg", "stage=missing")
    weights = fusion.w.tolist()
    assert columns["age"].contribution == pytest.approx((81 - 70) / 9 * weights[0] / 2, abs=1e-5)
    assert columns["stage"].contribution == pytest.approx(weights[2] / 2, abs=1e-5)


class LinearInText(Linear):
    """The clinical record's part comes from its sentences."""

    READS_TEXT = True

    def forward(self, batch: Batch) -> torch.Tensor:
        told = replace(batch, clinical=torch.zeros_like(batch.clinical))
        return super().forward(told) + batch.clinical_tokens.sum(dim=(1, 2))[:, None]


def test_a_clinical_column_is_its_sentence_where_a_fusion_reads_text(tmp_path: Path) -> None:
    member = replace(member_of(LinearInText()), clinical_text=CLINICAL_TEXT)
    found, said, _ = explain_toy(replace(make_bundle(), members=(member,)), tmp_path, slides=0)
    assert not [line for line in said if "unexplained" in line]
    age, stage = CLINICAL_TEXT.apply(Record({"age": 73, "stage": "T1HG"}, Path()), warn=no_warning)
    contributions = {column.name: column.contribution for column in found.clinical}
    assert contributions == {
        "age": pytest.approx(age.sum() / 2, abs=1e-5),
        "stage": pytest.approx(stage.sum() / 2, abs=1e-5),
    }


def test_survpgc_is_told_the_record_in_text(tmp_path: Path) -> None:
    found, _, _ = explain_toy(make_bundle("survpgc", patches=PATCHES), tmp_path, bag=toy_bag())
    assert abs(found.modalities["clinical"]) > 0.01
    assert {column.name for column in found.clinical} == {"age", "stage"}


def test_a_columns_value_is_found_whatever_its_case(tmp_path: Path) -> None:
    predictor = Predictor(
        build_bundle(modalities=("clinical",)), weights_dirs=[], device=torch.device("cpu")
    )
    case = Case("C", clinical=Record({"age": 70, "lvi": "Yes", "BRS": "BRS2"}, Path("c")))
    found = explain_case(predictor, case, None, tmp_path, bundle_sha256="", warn=no_warning)
    values = {column.name.lower(): column.value for column in found.clinical}
    assert (values["lvi"], values["brs"], values["sex"]) == ("Yes", "BRS2", "not given")


def test_the_picture_says_how_far_the_inputs_moved_the_risk() -> None:
    text = _equation(SimpleNamespace(risk=-1.5, reference_risk=-1.0))
    assert text == "Its risk −1.50 is the reference patient's −1.00 and −0.50 by its own inputs"
