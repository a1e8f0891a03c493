"""What SurvQ's queries keep: by principal components of another library, and where it is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import shuffled
from sklearn.decomposition import PCA
from toy_fusions import DIMS, TOY_SETTINGS, toy_cases, without

from model.batch import CaseInputs, collate
from model.fusion import build_fusion
from model.fusion.survq import Survq
from train.dataset import Fold
from train.information import HELD, Spread, information_kept, variance_kept


def spread_of(*cases: torch.Tensor) -> Spread:
    spread = Spread.none(cases[0].shape[1])
    for case in cases:
        spread = spread.add(case)
    return spread


def test_a_spread_counts_cases_alike() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(3, 4), 5 + torch.randn(12, 4)
    both = torch.cat([first.repeat(4, 1), second]).double()
    spread = spread_of(first, second)
    assert torch.allclose(spread.mean, both.mean(dim=0))
    assert torch.allclose(spread.covariance, torch.cov(both.T, correction=0))


def test_the_share_equals_that_of_principal_components() -> None:
    torch.manual_seed(1)
    values = torch.randn(400, 6) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5, 0.1])
    sums = torch.softmax(3 * torch.randn(40, 400), dim=1) @ values[:, :6]
    sums[:, 3:] = 0.0
    kept = variance_kept(spread_of(values), spread_of(sums))
    pca = PCA(n_components=HELD, svd_solver="full").fit(sums.numpy())
    centred = values.double().numpy() - values.double().numpy().mean(axis=0)
    inside = centred @ pca.components_.T
    assert kept.directions == len(pca.components_)
    assert kept.share == pytest.approx((inside**2).sum() / (centred**2).sum(), rel=1e-4)
    assert str(kept) == f"{kept.share:.2%} of the variance, in {kept.directions} of 6 directions"


def test_all_directions_keep_all_and_one_keeps_its_own() -> None:
    values = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    everything = variance_kept(spread_of(values), spread_of(values))
    assert (everything.share, everything.directions) == (pytest.approx(1.0), 2)
    along_first = variance_kept(spread_of(values), spread_of(values * torch.tensor([0.1, 0.0])))
    assert (along_first.share, along_first.directions) == (pytest.approx(0.8), 1)


def make_fold(cases: list[CaseInputs]) -> Fold:
    return Fold(
        case_ids=tuple(map(str, range(len(cases)))),
        inputs=tuple(cases),
        bags=None,
        dims=DIMS,
        optional=(),
        event=torch.ones(len(cases), dtype=torch.bool),
        time=torch.ones(len(cases), dtype=torch.float64),
        strata=torch.zeros(len(cases), dtype=torch.int64),
    )


def test_what_a_model_keeps_of_a_fold() -> None:
    settings = TOY_SETTINGS["survq"] | {"optional": ("slide", "rna"), "patch_queries": 3}
    fusion = build_fusion("survq", settings, DIMS)
    assert isinstance(fusion, Survq)
    shuffled(fusion, std=0.7)
    cases = toy_cases(30, 20, 25)
    kept = information_kept(fusion, make_fold([*cases, without(cases[0], "slide")]))
    assert list(kept) == ["slide", "rna"]
    assert all(0 < one.share <= 1 + 1e-6 and one.width == 8 for one in kept.values())

    # The patches of those that have some, from the model's own layers.
    values, sums = Spread.none(8), Spread.none(8)
    for case in cases:
        batch = collate([case], DIMS)
        tokens = fusion.eval().patches.project(batch.bag)
        read = fusion.ask_patches.attention.value(tokens)[0]
        asked = fusion.ask_patches.attention(fusion.ask_patches.vectors[None], tokens)[0]
        values, sums = values.add(read.detach()), sums.add(asked.detach())
    assert kept["slide"] == variance_kept(values, sums)
    alone = information_kept(fusion, make_fold([without(case, "slide") for case in cases]))
    assert list(alone) == ["rna"]


def test_more_queries_keep_no_less_of_what_they_span() -> None:
    """Sums of one query a case differ between cases alone; of many, inside them too."""
    shares = []
    for queries in (1, 30):
        settings = TOY_SETTINGS["survq"] | {"patch_queries": queries}
        fusion = build_fusion("survq", settings, DIMS)
        assert isinstance(fusion, Survq)
        shuffled(fusion, std=1.0)
        cases = [replace(case, rna=None) for case in toy_cases(40, 40)]
        shares.append(information_kept(fusion, make_fold(cases))["slide"])
    assert shares[0].directions == 1  # two cases lie on a line
    assert shares[1].directions > 1
    assert shares[1].share > shares[0].share
    assert np.isfinite(shares[1].share)
