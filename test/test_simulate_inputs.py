"""A simulated cohort as tensors: what they show of the factors, and to whom."""

import numpy as np
import pytest
import torch
from lifelines.utils import concordance_index

from train.simulate import simulate_latents
from train.simulate_inputs import GENE_SETS, Factors, SimulatedCohort, draw_bags


def test_the_mean_of_the_marked_patches_is_the_slide_s_factors() -> None:
    h = np.random.default_rng(1).normal(size=(30, 3))

    bags = draw_bags(h, np.random.default_rng(0))

    assert bags.shape == (30, 16, 4)
    for bag, factors in zip(bags, h, strict=True):
        marked = bag[:, -1] == 1
        assert bag[marked, :-1].mean(axis=0) == pytest.approx(factors)
        assert 0.2 < bag[marked, :-1].std(axis=0).mean() < 0.8
        square = np.argwhere(marked.reshape(4, 4))
        assert len(square) == 4
        assert (np.ptp(square, axis=0) == 1).all()
    others = bags[bags[:, :, -1] == 0][:, :-1]
    assert len(others) == 30 * 12
    assert others.mean() == pytest.approx(0, abs=0.1)
    assert others.std() == pytest.approx(1, abs=0.1)


def test_inputs_show_the_latents_and_outcomes_are_theirs() -> None:
    cohort = SimulatedCohort.draw(30, 20, 0.5, 3)
    latents = simulate_latents(50, 0.5, 3)
    cases = (*cohort.trained, *cohort.unseen)

    fold = cohort.fold(cases, ("slide", "rna", "clinical"), GENE_SETS)

    assert (len(cohort.trained), len(cohort.unseen)) == (30, 20)
    assert torch.equal(fold.event, torch.from_numpy(latents.event))
    assert torch.equal(fold.time, torch.from_numpy(latents.time))
    for row, case in enumerate(fold.inputs):
        assert case.bag is not None and case.rna is not None and case.clinical_tokens is not None
        assert case.rna.numpy() == pytest.approx(latents.r[row], rel=1e-6)
        shown = case.bag[case.bag[:, -1] == 1][:, :-1].mean(dim=0)
        assert shown.numpy() == pytest.approx(latents.h[row], abs=1e-5)
        assert torch.equal(case.clinical_tokens.sum(dim=0), case.clinical)
        assert case.coords is not None
        assert len({(x, y) for x, y in case.coords.tolist()}) == len(case.bag)
    assert fold.dims.gene_sets["set 4"] == (0, 1, 6, 7)
    assert (fold.dims.embedding, fold.dims.genes, fold.dims.clinical) == (9, 8, 4)
    late = slice(30, None)
    assert cohort.oracle == pytest.approx(
        concordance_index(latents.time[late], -latents.eta[late], latents.event[late])
    )


def test_a_fusion_is_shown_its_modalities_alone() -> None:
    cohort = SimulatedCohort.draw(10, 10, 0.5, 0)

    fold = cohort.fold(cohort.trained, ("slide",), GENE_SETS)

    assert all(case.modalities == ("slide",) for case in fold.inputs)
    assert (fold.dims.genes, fold.dims.clinical, fold.dims.gene_sets) == (0, 0, {})
    assert fold.inputs[0].clinical_tokens is None


def test_products_are_those_of_two_modalities() -> None:
    cohort = SimulatedCohort.draw(10, 10, 0.5, 0)
    h, r, c = cohort.factors["case2"]

    main, products = (
        Factors(cohort, products).fit(cohort.trained)(cohort.trained[2:3])[0]
        for products in (False, True)
    )

    assert main == pytest.approx(np.concatenate([h, r, c]))
    expected = [a * b for x, y in ((h, r), (h, c), (r, c)) for a in x for b in y]
    assert products == pytest.approx(np.concatenate([main, expected]))
