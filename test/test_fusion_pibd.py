"""pibd: which tokens go on, what becomes of them, and each term of its objective."""

from itertools import combinations

import numpy as np
import pytest
import torch
from by_hand import Array, array, count, linear, relu, shuffled, softmax
from toy_fusions import DIMS, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Dims, collate
from model.fusion import build_fusion
from model.fusion.base import Labels
from model.fusion.layers_bottleneck import Bottleneck, Club
from model.fusion.pibd import Pibd
from train.losses import discrete_nll

BATCH = collate(toy_cases(9, 1, 4), DIMS)
LABELS = Labels(torch.tensor([True, False, True]), torch.tensor([0.1, 0.6, 0.99]))


def cosines(tokens: Array, prototypes: Array) -> Array:
    return np.array([[x @ m / np.sqrt((x @ x) * (m @ m)) for m in prototypes] for x in tokens])


def masked(sizes: list[int]) -> torch.Tensor:
    return torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


# --- bottleneck -----------------------------------------------------------------------------------


def picked_by_hand(tokens: Array, prototypes: Array, keep: float) -> tuple[Array, int]:
    """Return which tokens go on, and the prototype with most votes."""
    similarity = cosines(tokens, prototypes)
    kept = np.argsort(-similarity.max(axis=1))[: int(np.ceil(keep * len(tokens)))]
    kinds = similarity[kept].argmax(axis=1)
    votes = [
        ((kinds == kind).sum(), similarity[kept, kinds][kinds == kind].sum())
        for kind in range(len(prototypes))
    ]
    return tokens[kept], max(range(len(votes)), key=votes.__getitem__)


def test_the_tokens_most_like_any_prototype_go_on_and_vote() -> None:
    torch.manual_seed(2)
    bottleneck = Bottleneck(8, 5, keep=0.4, samples=50).eval()
    sizes = [30, 1, 7, 12, 5, 25]
    tokens, mask = torch.randn(6, 30, 5), masked(sizes)
    picked = bottleneck.pick(tokens, mask)
    for row, size in enumerate(sizes):
        expected, kind = picked_by_hand(array(tokens[row, :size]), array(bottleneck.mean), 0.4)
        assert array(picked.tokens[row][picked.mask[row]]) == pytest.approx(expected, abs=1e-6)
        assert picked.kind[row] == kind


def test_the_nearer_voters_decide_between_equal_votes() -> None:
    bottleneck = Bottleneck(2, 2, keep=1.0, samples=1).eval()
    with torch.no_grad():
        bottleneck.mean.copy_(torch.eye(2))
    for nearest in range(2):
        tokens = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]])
        tokens[0, nearest, 1 - nearest] = 0.5
        assert bottleneck.pick(tokens, torch.ones(1, 2, dtype=torch.bool)).kind == nearest


def test_tokens_are_drawn_to_the_prototype_of_their_own_kind() -> None:
    torch.manual_seed(3)
    bottleneck = Bottleneck(4, 5, keep=0.5, samples=50).eval()
    sizes, kind = [9, 1, 4], torch.tensor([2, 0, 3])
    tokens = torch.randn(3, 9, 5)
    losses = []
    for row, size in enumerate(sizes):
        similarity = cosines(array(tokens[row, :size]), array(bottleneck.mean))
        top = np.sort(similarity, axis=0)[::-1][: int(np.ceil(size / 2))].mean(axis=0)
        own = int(kind[row])
        losses.append(np.delete(top, own).mean() - top[own])
    found = bottleneck.proxy_loss(tokens, masked(sizes), kind)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_samples_of_a_prototype_have_its_spread() -> None:
    torch.manual_seed(4)
    bottleneck = Bottleneck(2, 3, keep=0.5, samples=10).train()
    shuffled(bottleneck)
    draws = torch.stack([bottleneck.draw() for _ in range(4000)])
    assert torch.allclose(draws.mean(dim=0), bottleneck.mean, atol=0.02)
    assert torch.allclose(draws.var(dim=0), bottleneck.variance / 10, rtol=0.1)
    assert bottleneck.eval().draw().equal(bottleneck.mean)


def test_divergence_is_that_of_normal_distributions() -> None:
    bottleneck = Bottleneck(3, 4, keep=0.5, samples=10)
    shuffled(bottleneck)
    one = torch.distributions.Normal(bottleneck.mean, bottleneck.variance.sqrt())
    other = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(one, other).sum(dim=1).mean()
    assert bottleneck.divergence().item() == pytest.approx(expected.item(), rel=1e-5)


# --- shared information ---------------------------------------------------------------------------


def test_the_bound_equals_its_double_sum() -> None:
    club = Club(6)
    weights = shuffled(club)
    x, y = torch.randn(5, 6), torch.randn(5, 6)

    def log_q(to: Array, given: Array) -> float:
        mean = linear(weights, "mean.2", relu(linear(weights, "mean.0", given)))
        hidden = relu(linear(weights, "log_variance.0", given))
        log_variance = np.tanh(linear(weights, "log_variance.2", hidden))
        return float(-((to - mean) ** 2 / np.exp(log_variance) + log_variance).sum() / 2)

    likelihood = np.array([[log_q(to, given) for to in array(y)] for given in array(x)])
    own = likelihood.diagonal().mean()
    expected = (own - likelihood.mean()) - own
    assert club(x, y).item() == pytest.approx(expected, rel=1e-4)


def test_vectors_lower_the_bound_and_the_estimator_its_own_surprise() -> None:
    club = Club(6)
    shuffled(club)
    one = torch.randn(1, 6, requires_grad=True)  # of a single case nothing is shared
    torch.autograd.backward(club(one, one))
    assert one.grad is not None
    assert not one.grad.any()
    assert all(value.grad is not None and value.grad.any() for value in club.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("dependent", [True, False])
def test_the_bound_tells_dependent_from_independent(dependent: bool) -> None:
    torch.manual_seed(6)
    club = Club(4)
    optimiser = torch.optim.Adam(club.parameters(), lr=0.02)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(64, 4)
        return x, x + 0.5 * torch.randn(64, 4) if dependent else torch.randn(64, 4)

    for _ in range(200):
        optimiser.zero_grad()
        torch.autograd.backward(club(*draw()))
        optimiser.step()
    x, y = draw()
    x.requires_grad_()
    (pull,) = torch.autograd.grad(club(x, y), x)
    assert (pull.norm() > 0.2).item() is dependent


# --- model ----------------------------------------------------------------------------------------


def test_the_joint_token_is_the_product_of_two_densities_to_their_powers() -> None:
    fusion = build_toy("pibd")
    shuffled(fusion)
    assert isinstance(fusion, Pibd)
    seen: list[torch.Tensor] = []
    fusion.disentangle.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    patches, mask = fusion.patches(BATCH)
    genes = fusion.genes(BATCH)
    fusion(BATCH)
    every = torch.ones(genes.shape[:2], dtype=torch.bool)
    of_slide = fusion.slide_prototypes.pick(patches, mask).kind
    of_genes = fusion.gene_prototypes.pick(genes, every).kind
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    for row in range(len(BATCH)):
        product = torch.ones(len(grid), TOY_SETTINGS["pibd"]["width"], dtype=torch.float64)
        shares = softmax(array(fusion.experts))
        for share, prototypes, kinds in (
            (shares[0], fusion.slide_prototypes, of_slide),
            (shares[1], fusion.gene_prototypes, of_genes),
        ):
            mean, variance = prototypes.mean[kinds[row]], prototypes.variance[kinds[row]]
            gaps = (grid[:, None] - mean.double()) ** 2 / (2 * variance.double())
            product = product * torch.exp(-share * gaps)
        expected = (grid[:, None] * product).sum(dim=0) / product.sum(dim=0)
        assert array(seen[0][row]) == pytest.approx(array(expected), abs=1e-3)


def normed(x: Array, gain: Array, shift: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return scaled * gain + shift


def test_the_disentangler_equals_its_equations() -> None:
    fusion = build_toy("pibd")
    assert isinstance(fusion, Pibd)
    weights = shuffled(fusion.disentangle)
    patches, mask = fusion.patches(BATCH)
    genes = fusion.genes(BATCH)
    slide = fusion.slide_prototypes.pick(patches, mask)
    sets = fusion.gene_prototypes.pick(genes, torch.ones(genes.shape[:2], dtype=torch.bool))
    joint = torch.randn(len(BATCH), 8)
    found = fusion.disentangle(slide, sets, joint)
    norm = [
        (weights[f"norms.{index}.weight"], weights[f"norms.{index}.bias"]) for index in range(3)
    ]
    for row in range(len(BATCH)):
        parts = [
            slide.tokens[row][slide.mask[row]],
            sets.tokens[row][sets.mask[row]],
            joint[row, None],
        ]
        sizes = [len(part) for part in parts]
        tokens = array(torch.cat(parts))
        query, key, value = np.split(normed(tokens, *norm[0]) @ weights["qkv.weight"].T, 3, axis=1)
        kind = np.repeat([0, 1, 2], sizes)
        attended = np.zeros_like(tokens)
        for at, q in enumerate(query):
            among = np.flatnonzero((kind == kind[at]) | (kind[at] == 2))
            for head in (slice(0, 4), slice(4, 8)):
                share = softmax(key[among, head] @ q[head] / 2)
                attended[at, head] = share @ value[among, head]
        tokens = tokens + linear(weights, "out", attended)
        hidden = linear(weights, "mlp.0", normed(tokens, *norm[1]))
        hidden = array(torch.nn.functional.gelu(torch.from_numpy(hidden)))
        tokens = normed(tokens + linear(weights, "mlp.3", hidden), *norm[2])
        for part in range(3):
            expected = tokens[kind == part].mean(axis=0)
            assert array(found[part][row]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_objective_is_the_sum_of_its_terms() -> None:
    fusion = build_toy("pibd", outputs=4)
    assert isinstance(fusion, Pibd)
    shuffled(fusion)
    patches, mask = fusion.patches(BATCH)
    genes = fusion.genes(BATCH)
    every = torch.ones(genes.shape[:2], dtype=torch.bool)
    kind = torch.tensor([1, 4, 7])  # bins 0, 2 and 3; with, without and with the event
    slide, sets = fusion.slide_prototypes, fusion.gene_prototypes
    proxy = slide.proxy_loss(patches, mask, kind) + sets.proxy_loss(genes, every, kind)
    bins, event = torch.arange(8) // 2, torch.arange(8) % 2 == 1
    hazards, prior = (
        sum(part)
        for part in zip(
            *(
                (
                    discrete_nll(fusion.hazards(p.mean), event=event, bin=bins, alpha=0.0),
                    p.divergence(),
                )
                for p in (slide, sets)
            ),
            strict=True,
        )
    )
    seen: list[tuple[torch.Tensor, ...]] = []
    fusion.disentangle.register_forward_hook(lambda _, __, output: seen.append(output))
    found = fusion.auxiliary_loss(BATCH, LABELS)
    shared = [
        club(x, y) for club, (x, y) in zip(fusion.shared, combinations(seen[0], 2), strict=True)
    ]
    expected = proxy + 0.1 * hazards + 0.01 * prior + 0.1 * sum(shared)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pibd_has_the_parameters_of_the_paper() -> None:
    positions = range(9_745)  # of the pathways, in which a gene counts once a pathway
    sets = {str(part): tuple(positions[part::331]) for part in range(331)}
    dims = Dims(embedding=768, genes=9_745, outputs=4, gene_sets=sets)
    with torch.device("meta"):
        fusion = build_fusion("pibd", {}, dims)
    # Published are five estimators of shared information, where three vectors have three pairs; no
    # layer from 256 to 4 for a prototype's hazards; and 8 numbers no equation has a place for.
    estimator = 2 * (256 * 128 + 128 + 128 * 256 + 256)
    assert count(fusion) == 26_930_702 - 2 * estimator + (256 * 4 + 4) - 8
