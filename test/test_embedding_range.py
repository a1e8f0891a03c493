"""Cases off the plane of the training cohort's, by hand and in the bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from job_files import no_warning
from safetensors.numpy import load, save
from small_bundles import build_bundle
from toy_bundles import make_bundle
from toy_fusions import DIMS, toy_cases

from model.batch import Bag
from model.bundle import Bundle
from model.case import Case, Record
from model.embedding_range import AXES, SLACK, EmbeddingRange
from model.errors import BundleError
from model.predictor import Predictor

CPU = torch.device("cpu")
WARNING = (
    "times as far from the training cohort's as any of its own cases; "
    "another stain, scanner or resolution?"
)


def made_up_bags(
    count: int, *, seed: int = 0, patches: int = 40, shift: float = 0.0, width: int = 60
) -> list[torch.Tensor]:
    """Make bags of cases that differ along three axes and a little along all, patches along all.

    A shift leads off the axes, by so many standard deviations of what is little.
    """
    axes = np.random.default_rng(99).normal(size=(3, width))
    away = shift * np.random.default_rng(98).choice([-1.0, 1.0], width)
    draw = np.random.default_rng(seed)
    bags = []
    for _ in range(count):
        centre = 5 + draw.normal(size=3) @ axes + 0.1 * (draw.normal(size=width) + away)
        patches_ = centre + 0.4 * draw.normal(size=(patches, width))
        bags.append(torch.from_numpy(patches_).float())
    return bags


def fit(bags: list[torch.Tensor]) -> EmbeddingRange:
    found = EmbeddingRange.fit(bags)
    assert found is not None
    return found


# --- distances ------------------------------------------------------------------------------------


def test_the_distance_is_the_residual_of_a_regression_on_the_axes() -> None:
    bags = made_up_bags(30)
    found = fit(bags)
    case = made_up_bags(1, seed=5)[0].double().numpy().mean(axis=0)
    assert found.axes.shape == (min(AXES, 15), 60)
    centred = case - np.mean([bag.double().numpy().mean(axis=0) for bag in bags], axis=0)
    weights = np.linalg.lstsq(found.axes.T, centred, rcond=None)[0]
    residual = centred - found.axes.T @ weights
    expected = np.sqrt(np.mean(residual**2)) / found.spread / found.reach
    as_many = torch.from_numpy(case).repeat(40, 1)
    assert found.distance(as_many) == pytest.approx(expected, rel=1e-3)


def test_the_axes_are_those_of_the_largest_variance() -> None:
    bags = made_up_bags(60, patches=400)
    found = fit(bags)
    means = np.stack([bag.double().numpy().mean(axis=0) for bag in bags])
    variances = np.linalg.eigvalsh(np.cov(means.T, bias=True))[::-1]
    along = ((means - means.mean(axis=0)) @ found.axes.T).var(axis=0)
    assert along == pytest.approx(variances[: len(along)], rel=1e-3)
    # Three of them are what the patients differ in.
    assert along[2] > 20 * along[3]


@pytest.mark.parametrize("patches", [2, 50])
def test_the_noise_is_that_of_patches_off_the_axes(patches: int) -> None:
    found = fit(made_up_bags(60, patches=patches, width=200))
    # 0.4 a dimension, of which the 20 axes of 200 take a tenth of the squares.
    assert found.noise == pytest.approx(0.4 * np.sqrt(0.9), rel=0.02)
    assert found.patches == pytest.approx(patches)


@pytest.mark.parametrize("count", [10, 25, 100])
def test_new_cases_of_the_cohort_are_near(count: int) -> None:
    found = fit(made_up_bags(count))
    distances = np.array([found.distance(bag) for bag in made_up_bags(200, seed=1)])
    assert (distances > SLACK).mean() <= 0.01
    assert distances.max() > 0.6


def test_the_limit_is_not_that_of_cases_measured_by_their_own_plane() -> None:
    bags = made_up_bags(30)
    found = fit(bags)
    own = max(found.distance(bag) for bag in bags)
    new = np.median([found.distance(bag) for bag in made_up_bags(100, seed=1)])
    assert own < new < 1


@pytest.mark.parametrize("patches", [1, 3, 10, 40, 2000])
def test_few_patches_are_off_by_chance_alone(patches: int) -> None:
    found = fit(made_up_bags(60))
    near = made_up_bags(100, seed=1, patches=patches)
    assert not [bag for bag in near if found.distance(bag) > SLACK]
    if patches > 1:  # one patch tells little
        far = made_up_bags(20, seed=2, patches=patches, shift=6.0)
        assert all(found.distance(bag) > SLACK for bag in far)


def test_more_patients_of_one_kind_are_no_other_kind() -> None:
    """However far a case is along the axes, it has more of what the cohort's cases differ in."""
    found = fit(made_up_bags(60))
    mean = torch.from_numpy(found.mean + 10 * found.axes[0])
    assert found.distance(mean.repeat(40, 1)) < 0.1


@pytest.mark.parametrize(
    "bags",
    [
        [],
        made_up_bags(9),
        [torch.ones(5, 8) for _ in range(20)],
    ],
    ids=["no cases", "nine cases", "cases that are all the same"],
)
def test_nothing_is_said_without_cases_to_go_by(bags: list[torch.Tensor]) -> None:
    assert EmbeddingRange.fit(bags) is None


def test_cases_of_one_patch_each() -> None:
    found = fit(made_up_bags(40, patches=1))
    assert (found.noise, found.patches) == (0.0, 1.0)
    near = made_up_bags(50, seed=1, patches=1)
    assert max(found.distance(bag) for bag in near) < SLACK


def test_the_order_of_patches_is_without_meaning() -> None:
    bags = made_up_bags(20)
    turned = fit([bag.flip(0) for bag in bags])
    assert turned.reach == pytest.approx(fit(bags).reach, rel=1e-5)


# --- in the bundle --------------------------------------------------------------------------------


def toy_range(width: int = DIMS.embedding) -> EmbeddingRange:
    return fit(made_up_bags(20, width=width))


def toy_bundle(embedding_range: EmbeddingRange | None) -> Bundle:
    bundle = make_bundle()
    return Bundle(bundle.manifest, bundle.members, bundle.mapping, embedding_range)


def test_it_travels_with_the_bundle(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    saved = toy_range()
    toy_bundle(saved).save(path)
    loaded = Bundle.load(path).embedding_range
    assert loaded is not None
    for bag in made_up_bags(3, seed=3, width=DIMS.embedding):
        assert loaded.distance(bag) == pytest.approx(saved.distance(bag), rel=1e-4)
    again = save(loaded.to_arrays())
    assert again == save(saved.to_arrays())
    assert EmbeddingRange.from_arrays(load(again)).reach == loaded.reach


def test_a_bundle_without_one_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    toy_bundle(None).save(path)
    assert Bundle.load(path).embedding_range is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"axes": None}, "no 'axes'"),
        ({"axes": np.ones((2, 5), dtype=np.float32)}, "axes (2, 5) for a mean embedding (6,)"),
        ({"reach": None}, "no 'reach'"),
        ({"mean": np.ones(4), "axes": np.ones((2, 4))}, "a range of embeddings (4,) for a fusion"),
    ],
)
def test_one_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], found: str
) -> None:
    whole = toy_range().to_arrays() | change
    arrays = {name: array for name, array in whole.items() if array is not None}
    monkeypatch.setattr(EmbeddingRange, "to_arrays", lambda self: arrays)
    path = tmp_path / "bundle.safetensors"
    toy_bundle(toy_range()).save(path)
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    assert f"{path}: expected the manifest's tensors, found {found}" in str(caught.value)


def test_a_case_gets_one_line_however_many_members_there_are() -> None:
    (case,) = toy_cases(5)
    assert case.coords is not None
    bags = {
        "near": made_up_bags(1, seed=4, width=DIMS.embedding)[0],
        "far": 40 + torch.randn(5, DIMS.embedding, generator=torch.Generator().manual_seed(0)),
    }
    bundle = toy_bundle(toy_range())
    assert len(bundle.members) == 2
    for kind, embeddings in bags.items():
        count = len(embeddings)
        bag = Bag(
            embeddings, case.coords[:1].repeat(count, 1), torch.zeros(count, dtype=torch.long)
        )
        record = Record({"age": 72, "stage": "T1HG"}, Path("clinical.json"))
        patient = Case(case_id="3A_001", clinical=record)
        warnings: list[str] = []
        predictor = Predictor(bundle, weights_dirs=(), device=CPU)
        risk = predictor.risk(patient, bag, warn=warnings.append)
        assert [text for text in warnings if WARNING in text] == warnings
        assert len(warnings) == (kind == "far")
        plain = Predictor(toy_bundle(None), weights_dirs=(), device=CPU)
        assert plain.risk(patient, bag, warn=no_warning) == risk


def test_a_bundle_without_slides_needs_none() -> None:
    assert build_bundle(modalities=("rna", "clinical")).embedding_range is None
