"""motcat: its plan is optimal, and patches are carried by it."""

import numpy as np
import pytest
import torch
from by_hand import Array, array, count
from ot.unbalanced import sinkhorn_knopp_unbalanced
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Dims, collate
from model.fusion import build_fusion, motcat
from model.fusion.motcat import Motcat, MotcatConfig, transport

BATCH = collate(toy_cases(5, 1, 3), DIMS)
AS_PUBLISHED = MotcatConfig(normalise=False)


def cost_between(genes: Array, patches: Array) -> Array:
    cost = np.array(
        [[(((g - g.min()) - (h - h.min())) ** 2).sum() for h in patches] for g in genes]
    )
    scaled: Array = cost / cost.max()
    return scaled


def divergence(x: Array, y: Array) -> float:
    """Return the Kullback-Leibler divergence of two measures of any mass."""
    return float((x * np.log(x / y) - x + y).sum())


def objective(plan: Array, cost: Array, config: MotcatConfig) -> float:
    a, b = (np.full(size, 1 / size) for size in plan.shape)
    marginals = divergence(plan.sum(axis=1), a) + divergence(plan.sum(axis=0), b)
    return float(
        (plan * cost).sum()
        + config.entropy * divergence(plan, np.outer(a, b))
        + config.mass * marginals
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("entropy", "mass"), [(0.1, 0.5), (0.02, 0.5), (0.05, 2.0), (1.0, 0.05)])
@pytest.mark.parametrize(
    ("sets", "patches"), [(3, 40), (6, 1), (1, 7), pytest.param(50, 300, marks=pytest.mark.slow)]
)
def test_a_plan_equals_that_of_pot(
    sets: int, patches: int, entropy: float, mass: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(sets)
    genes = torch.randn(sets, 8, dtype=dtype)
    bag = torch.relu(torch.randn(patches, 8, dtype=dtype))
    config = MotcatConfig(entropy=entropy, mass=mass, normalise=False)
    expected = sinkhorn_knopp_unbalanced(
        np.full(sets, 1 / sets),
        np.full(patches, 1 / patches),
        cost_between(array(genes), array(bag)),
        reg=entropy,
        reg_m=mass,
        stopThr=1e-12,
    )
    found = transport(genes, bag, config)
    assert found.dtype == torch.float64
    assert array(found) == pytest.approx(expected, rel=1e-6, abs=0)
    normalised = transport(genes, bag, MotcatConfig(entropy=entropy, mass=mass))
    shares = expected / expected.sum(axis=1, keepdims=True)
    assert array(normalised) == pytest.approx(shares, rel=1e-6, abs=0)


def test_both_ways_to_sum_give_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    genes, bag = torch.randn(4, 8), torch.randn(30, 8)
    by_products = transport(genes, bag, AS_PUBLISHED)
    monkeypatch.setattr(motcat, "LOWEST", 0.0)
    torch.testing.assert_close(transport(genes, bag, AS_PUBLISHED), by_products, rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mass", [1e-6, 0.5, 1e6])
@pytest.mark.parametrize("entropy", [1e-9, 0.0049, 0.005, 1e6])
def test_a_plan_is_finite_whatever_its_weights(entropy: float, mass: float) -> None:
    """POT's is of no numbers where exp(-cost / entropy) leaves float64's range."""
    torch.manual_seed(0)
    genes, bag = torch.randn(4, 8), torch.relu(torch.randn(30, 8))
    plan = transport(genes, bag, MotcatConfig(entropy=entropy, mass=mass, normalise=False))
    assert plan.isfinite().all() and (plan >= 0).all() and plan.sum() <= 1 + 1e-6
    shares = transport(genes, bag, MotcatConfig(entropy=entropy, mass=mass))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4, dtype=torch.float64))


def test_tokens_that_are_all_alike_share_equally() -> None:
    plan = transport(torch.ones(2, 8), torch.zeros(5, 8), MotcatConfig())
    assert plan.flatten().tolist() == pytest.approx([0.2] * 10)


def test_no_other_plan_is_better() -> None:
    torch.manual_seed(0)
    genes, bag = torch.randn(4, 8), torch.randn(9, 8)
    cost = cost_between(array(genes), array(bag))
    plan = array(transport(genes, bag, AS_PUBLISHED))
    best = objective(plan, cost, AS_PUBLISHED)
    draw = np.random.default_rng(0)
    for size in (0.3, 0.1, 0.03):
        others = [plan * np.exp(size * draw.standard_normal(plan.shape)) for _ in range(50)]
        assert min(objective(other, cost, AS_PUBLISHED) for other in others) > best
    assert 0.3 < plan.sum() < 0.8  # mass is lost, which is why it is normalised


@pytest.mark.parametrize("normalise", [True, False])
def test_motcat_carries_patches_by_its_plan(normalise: bool) -> None:
    settings = TOY_SETTINGS["motcat"] | {"normalise": normalise, "mass": 0.5}
    fusion = build_fusion("motcat", settings, DIMS.model_copy(update={"outputs": 4})).eval()
    assert isinstance(fusion, Motcat)
    patches, genes = fusion.patches(BATCH)[0], fusion.genes(BATCH)
    logits, attention = fusion(BATCH), fusion.attention(BATCH)
    for row, mask in enumerate(BATCH.mask):
        bag = patches[row][mask]
        plan = transport(genes[row].detach(), bag.detach(), fusion.config).float()
        carried = torch.zeros(len(genes[row]), bag.shape[1])
        for gene_set, shares in enumerate(plan):
            for share, patch in zip(shares, bag, strict=True):
                carried[gene_set] += share * patch
        both = [fusion.encode_slide(carried[None]), fusion.encode_genes(genes[row : row + 1])]
        expected = fusion.head(fusion.fused(torch.cat(both, dim=1)))[0]
        assert logits[row].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        of_set = plan / plan.sum(dim=1, keepdim=True)
        assert attention[row][mask].tolist() == pytest.approx(of_set.mean(dim=0).tolist(), rel=1e-4)


def test_no_gradient_flows_through_the_plan() -> None:
    fusion = build_toy("motcat")
    assert isinstance(fusion, Motcat)
    with torch.no_grad():
        for value in fusion.encode_genes.parameters():
            value.zero_()  # what remains of the genes is their part in the plan
    torch.autograd.backward(fusion(BATCH).sum())
    gradients = [value.grad for value in fusion.genes.parameters()]
    assert not any(gradient is not None and gradient.any() for gradient in gradients)


def test_motcat_has_the_parameters_of_the_paper() -> None:
    positions = range(3_523)  # of the six families, as measured for breast cancer
    sets = {str(part): tuple(positions[part::6]) for part in range(6)}
    dims = Dims(embedding=1024, genes=3_523, outputs=4, gene_sets=sets)
    with torch.device("meta"):
        fusion = build_fusion("motcat", {}, dims)
    assert count(fusion) == 4_262_406
