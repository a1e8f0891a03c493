"""The parts of an explanation: contributions to the risk, patches, and the heatmap's pixels."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_fusion import Linear, member_of
from PIL import Image
from small_bundles import PATCHES
from synthetic import no_warning
from toy_fusions import NAMES, build_toy, toy_cases, without

from model.batch import Bag, Batch, CaseInputs
from model.explain_gradients import TOLERANCE, Attribution, attribute_risk
from model.explain_patches import Patches, View, attend, gather, geojson, read_squares, view_slide
from model.explain_pictures import colour_of, contribution_bars, heatmap
from model.member import Member
from model.patches import PatchSpec, patch_grid, read_patches
from model.pixels import WholeSource
from model.slide import Slide
from model.tissue_mask import find_tissue

NOT_SMOOTH = {"ccl", "mome", "pibd"}
"""Fusions whose contributions need not add up: of clusters, or of routes that a case takes."""


def attribute(member: Member, case: CaseInputs) -> Attribution:
    return attribute_risk(member, member.collate([case]))


# -- contributions ---------------------------------------------------------------------------------


def test_contributions_to_a_linear_risk_are_its_terms() -> None:
    (case,) = toy_cases(5)
    fusion = Linear()
    found = attribute(member_of(fusion), case)
    with torch.no_grad():
        expected = {
            "slide": case.bag @ fusion.u / 5 / 2.0,
            "rna": case.rna * fusion.v / 2.0,
            "clinical": case.clinical * fusion.w / 2.0,
        }
    assert list(found.parts) == ["slide", "rna", "clinical"]
    for name, part in expected.items():
        np.testing.assert_allclose(found.parts[name], part.numpy(), atol=1e-6)
    assert found.reference == pytest.approx((1 - 0.3) / 2)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.steps == 16  # as more would add nothing


def test_steps_are_doubled_until_contributions_add_up() -> None:
    class Kinked(Linear):
        def forward(self, batch: Batch) -> torch.Tensor:
            return 50 * torch.relu(super().forward(batch) - super().forward(case_at(0.87)))

    (case,) = toy_cases(5)
    member = member_of(Kinked())
    whole = member.collate([case])

    def case_at(share: float) -> Batch:
        return replace(
            whole, bag=share * whole.bag, rna=share * whole.rna, clinical=share * whole.clinical
        )

    found = attribute_risk(member, whole)
    assert abs(found.risk - found.reference) > 1
    assert found.steps > 64
    assert abs(found.error) <= TOLERANCE


@pytest.mark.slow
def test_contributions_are_the_integral_along_the_straight_path() -> None:
    (case,) = toy_cases(9)
    member = member_of(build_toy("pairwise_residual"))
    # By the midpoint rule in float64, which shares no code with what is tested.
    fusion = build_toy("pairwise_residual").double()
    values = [value.double()[None] for value in (case.bag, case.rna, case.clinical)]
    steps = 400
    gradients = []
    for step in range(steps):
        bag, rna, clinical = ((step + 0.5) / steps * value for value in values)
        inner = [value.requires_grad_() for value in (bag, rna, clinical)]
        batch = replace(member.collate([case]), bag=bag, rna=rna, clinical=clinical)
        gradients.append(torch.autograd.grad(fusion(batch)[0, 0], inner))
    bag, rna, clinical = (
        (sum(of_input) / steps * value / 2.0)[0].numpy()
        for of_input, value in zip(zip(*gradients, strict=True), values, strict=True)
    )
    found = attribute(member, case)
    np.testing.assert_allclose(found.parts["slide"], bag.sum(axis=1), atol=2e-5)
    np.testing.assert_allclose(found.parts["rna"], rna, atol=2e-5)
    np.testing.assert_allclose(found.parts["clinical"], clinical, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_fusion_can_be_explained(name: str) -> None:
    (case,) = toy_cases(12)
    member = member_of(build_toy(name, outputs=3), risk_sd=0.5)
    found = attribute(member, case)
    assert found.risk == pytest.approx(member.risk(member.collate([case]))[0], abs=1e-5)
    assert tuple(found.parts) == member.fusion.config.modalities
    assert all(np.isfinite(part).all() for part in found.parts.values())
    assert abs(found.error) <= TOLERANCE or name in NOT_SMOOTH


def test_what_a_case_lacks_contributes_nothing() -> None:
    (case,) = toy_cases(6)
    member = member_of(build_toy("pairwise", optional=("slide",)))
    found = attribute(member, without(case, "slide"))
    assert list(found.parts) == ["rna", "clinical"]
    assert abs(found.error) <= TOLERANCE


# -- patches ---------------------------------------------------------------------------------------


def patches_of(attention: list[float], *, side_px: int = 10) -> Patches:
    count = len(attention)
    coords = torch.tensor([[side_px * index, 0] for index in range(count)])
    bag = Bag(torch.zeros(count, 6), coords, torch.zeros(count, dtype=torch.int64))
    return gather(bag, np.array(attention), np.zeros(count))


def test_the_attention_to_patches_is_the_mean_over_members() -> None:
    class Second(Linear):
        def attention(self, batch: Batch) -> torch.Tensor:
            return torch.eye(batch.mask.shape[1])[1:2]

    members = [member_of(fusion) for fusion in (Linear(), Linear(), Linear(), Second())]
    batches = [member.collate(toy_cases(3)) for member in members]
    assert attend(members, batches).tolist() == [0.75, 0.25, 0]


def test_percentiles_and_what_leads() -> None:
    patches = patches_of([0.1, 0.4, 0.1, 0.3, 0.1])
    assert patches.percentile.tolist() == [30, 90, 30, 70, 30]
    assert patches.relative.tolist() == pytest.approx([0.5, 2, 0.5, 1.5, 0.5])
    assert patches.leading(3).tolist() == [1, 3, 0]
    assert patches.cover_half() == 2


def test_leading_patches_are_what_the_encoder_sees_in_any_order(slide: Slide) -> None:
    spec = PATCHES
    coords = patch_grid(slide, find_tissue(slide, None, warn=no_warning), spec)
    seen = list(read_patches(slide, coords, spec))
    order = np.random.default_rng(0).permutation(len(coords))
    zeros = np.zeros(len(coords))
    patches = Patches(coords, np.zeros(len(coords), int), zeros, zeros, zeros, zeros)
    for row, square in zip(order, read_squares(slide, patches.take(order), spec), strict=True):
        np.testing.assert_array_equal(square, seen[row])


def test_qupath_counts_from_the_corner_of_what_was_scanned() -> None:
    scanned = {"x": 300, "y": 200, "width": 700, "height": 100}
    source = WholeSource(
        np.full((400, 1000, 3), 255, np.uint8),
        {f"openslide.bounds-{name}": str(value) for name, value in scanned.items()},
    )
    spec = PatchSpec(mpp=1.0, size_px=40, stride_px=40)
    view = view_slide(Slide(Path("slide.mrxs"), source, 0.5), spec, 100)
    patches = patches_of([0.5, 0.5], side_px=310)
    found = json.loads(geojson("C1", Path("slide.mrxs"), patches, view, colour_of(np.zeros(2))))
    (ring,) = found["features"][1]["geometry"]["coordinates"]
    # 40 µm are 80 pixels of level 0.
    assert ring == [[10, -200], [90, -200], [90, -120], [10, -120], [10, -200]]


@pytest.mark.slow
def test_the_heatmap_colours_a_patch_where_it_lies() -> None:
    white = np.full((300, 400, 3), 255, dtype=np.uint8)
    view = View(white, downsample=(2.0, 2.0), mpp=0.5, side_px=100)
    patches = patches_of([0.2, 0.8], side_px=700)  # at the left and right ends of 800
    picture = np.asarray(
        Image.open(io.BytesIO(heatmap("title", view, patches, {1: 1}))).convert("RGB")
    ).astype(int)
    places = []
    for percentile in patches.percentile:
        colour = 0.62 * colour_of(np.array([percentile]))[0] + 0.38 * 255
        hit = (np.abs(picture - colour).max(axis=2) <= 4).sum(axis=0)
        assert hit.max() > 40
        places.append(float(np.average(np.arange(len(hit)), weights=hit)))
    assert places[1] - places[0] > 300


def test_dollars_are_no_mathematics() -> None:
    """Cases, slides and clinical values may be called so."""
    contribution_bars(r"Case $P_1_2$", {r"record \$": [(r"site = $\A$", 1.0)]})


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(7, 1400, 3), (1400, 7, 3), (60, 1400, 3), (1400, 60, 3)])
def test_the_slide_may_be_thin(shape: tuple[int, ...]) -> None:
    """Where the words have no room, matplotlib warns, and tests fail on warnings."""
    view = View(np.full(shape, 200, "u1"), downsample=(43.0, 43.0), mpp=0.5, side_px=448)
    picture = Image.open(io.BytesIO(heatmap("two\nlines", view, patches_of([0.2, 0.8]), {1: 1})))
    assert min(picture.size) > 900
