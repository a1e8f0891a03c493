"""Shared parts of fusions: each against its equation, written out in numpy."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from model.batch import CaseInputs, Dims, Modality, collate
from model.fusion.layers import (
    Branches,
    BranchesConfig,
    GatedAttentionPool,
    LowRankBilinear,
    Pairs,
    PairsConfig,
    StandIn,
    init_xavier,
    mlp,
)
from model.fusion.layers_elements import AlphaDropout, Dropout, Tanh

Array = npt.NDArray[np.float64]


def parameters(module: nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def linear(weights: dict[str, Array], name: str, x: Array) -> Array:
    y: Array = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return y


def shuffle(module: nn.Module) -> None:
    """Give every parameter, biases too, a value of its own."""
    for value in module.parameters():
        nn.init.normal_(value, std=0.7)


def test_gated_attention_equals_its_equation() -> None:
    torch.manual_seed(0)
    pool = GatedAttentionPool(embedding=5, width=4, attention_width=3, dropout=0.25).eval()
    shuffle(pool)
    bag = torch.randn(2, 6, 5)
    sizes = (6, 2)
    mask = torch.arange(6) < torch.tensor(sizes)[:, None]
    pooled, weights = pool(bag, mask)

    p = parameters(pool)
    for case, size in enumerate(sizes):
        x = bag[case, :size].double().numpy()
        h = np.maximum(linear(p, "project.0", x), 0)
        gate = 1 / (1 + np.exp(-linear(p, "gate.0", h)))
        score = linear(p, "score", np.tanh(linear(p, "value.0", h)) * gate)[:, 0]
        attention = np.exp(score) / np.exp(score).sum()
        assert weights[case, :size].tolist() == pytest.approx(attention, rel=1e-5)
        assert weights[case, size:].tolist() == [0.0] * (6 - size)
        assert pooled[case].tolist() == pytest.approx(attention @ h, rel=1e-4, abs=1e-6)


def test_an_empty_bag_pools_to_zeros() -> None:
    pool = GatedAttentionPool(embedding=5, width=4, attention_width=3, dropout=0.0)
    shuffle(pool)
    pooled, weights = pool(torch.randn(1, 3, 5), torch.zeros(1, 3, dtype=torch.bool))
    assert pooled.tolist() == [[0.0] * 4]
    assert weights.tolist() == [[0.0] * 3]


def test_low_rank_bilinear_equals_its_equation() -> None:
    torch.manual_seed(1)
    block = LowRankBilinear(width_x=4, width_y=3, rank=2, width_out=5)
    shuffle(block)
    x, y = torch.randn(7, 4), torch.randn(7, 3)
    p = parameters(block)
    expected = np.zeros((7, 5))
    for case in range(7):
        for out in range(5):
            expected[case, out] = p["out.bias"][out]
            for rank in range(2):
                left = p["x.weight"][rank] @ x[case].double().numpy() + p["x.bias"][rank]
                right = p["y.weight"][rank] @ y[case].double().numpy() + p["y.bias"][rank]
                expected[case, out] += p["out.weight"][out, rank] * left * right
    assert block(x, y).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_mlp_ends_in_relu_without_dropout() -> None:
    kinds = [type(layer) for layer in mlp((9, 8, 7, 6), dropout=0.3)]
    assert kinds == [
        nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU,
    ]  # fmt: skip
    assert len(mlp((9,), dropout=0.3)) == 0


def test_xavier_initialisation() -> None:
    torch.manual_seed(2)
    net = mlp((300, 200, 400), dropout=0.0)
    init_xavier(net)
    for layer in net:
        if isinstance(layer, nn.Linear):
            wide, narrow = layer.weight.shape
            assert layer.weight.std().item() == pytest.approx(
                (2 / (wide + narrow)) ** 0.5, rel=0.02
            )
            assert layer.weight.mean().item() == pytest.approx(0, abs=1e-3)
            assert not layer.bias.any()


def test_a_stand_in_replaces_absent_rows_only() -> None:
    stand_in = StandIn(2)
    nn.init.constant_(stand_in.vector, 5.0)
    vector = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    replaced = stand_in(vector, torch.tensor([True, False]))
    assert replaced.tolist() == [[1.0, 2.0], [5.0, 5.0]]


def test_branches_encode_each_modality_in_order() -> None:
    torch.manual_seed(3)
    config = BranchesConfig(
        modalities=("clinical", "rna", "slide"),
        slide_width=4,
        attention_width=3,
        rna_widths=(6, 5),
    )
    dims = Dims(embedding=7, genes=8, clinical=2)
    branches = Branches(config, dims).eval()
    shuffle(branches)
    bag, rna, clinical = torch.randn(3, 7), torch.randn(8), torch.randn(2)
    batch = collate([CaseInputs(bag=bag, rna=rna, clinical=clinical)], dims)
    vectors = branches(batch)
    assert list(vectors) == ["slide", "rna", "clinical"]
    assert branches.widths == {"slide": 4, "rna": 5, "clinical": 2}
    assert {name: vector.shape[1] for name, vector in vectors.items()} == branches.widths

    p = parameters(branches)
    hidden = np.maximum(linear(p, "rna.0", rna.double().numpy()), 0)
    encoded = np.maximum(linear(p, "rna.3", hidden), 0)
    assert vectors["rna"][0].tolist() == pytest.approx(encoded, rel=1e-4, abs=1e-6)
    assert vectors["clinical"][0].tolist() == clinical.tolist()
    assert vectors["slide"].equal(branches.slide(batch.bag, batch.mask)[0])
    assert branches.attention(batch).equal(branches.slide(batch.bag, batch.mask)[1])


def test_branches_without_slides_weigh_no_patches() -> None:
    branches = Branches(BranchesConfig(modalities=("clinical",)), Dims(clinical=2))
    batch = collate([CaseInputs(clinical=torch.ones(2))], Dims(clinical=2))
    with pytest.raises(ValueError, match=r"weighs no patches: its modalities are clinical$"):
        branches.attention(batch)


def test_pairs_join_every_pair_in_order() -> None:
    torch.manual_seed(4)
    config = PairsConfig(rank=2, slide_rna=5, slide_clinical=4, rna_clinical=3)
    pairs = Pairs(config, {"slide": 7, "rna": 6, "clinical": 2})
    shuffle(pairs)
    vectors: dict[Modality, Tensor] = {
        "slide": torch.randn(1, 7),
        "rna": torch.randn(1, 6),
        "clinical": torch.randn(1, 2),
    }
    assert pairs.width == 5 + 4 + 3
    assert pairs.pairs == [("slide", "rna"), ("slide", "clinical"), ("rna", "clinical")]
    joined = pairs(vectors)
    expected = [
        block(vectors[x], vectors[y])
        for block, (x, y) in zip(pairs.blocks, pairs.pairs, strict=True)
    ]
    assert [part.shape[1] for part in expected] == [5, 4, 3]
    assert joined.equal(torch.cat(expected, dim=1))


def test_tanh_is_torchs() -> None:
    rows = torch.linspace(-30, 30, 10_001, requires_grad=True)
    torch.testing.assert_close(Tanh()(rows), rows.tanh(), rtol=0, atol=2**-22)
    (found,) = torch.autograd.grad(Tanh()(rows).sum(), rows)
    (expected,) = torch.autograd.grad(rows.tanh().sum(), rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-21)
    reduced = rows.bfloat16()
    assert torch.equal(Tanh()(reduced), reduced.tanh())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.7])
def test_dropout_keeps_its_share_and_the_mean(p: float) -> None:
    dropout, ones = Dropout(p), torch.ones(300, 1001, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout(ones)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.005)
    assert dropped[kept].unique().tolist() == [pytest.approx(1 / (1 - p), rel=1e-4)]
    # Neighbours are drawn apart, and so are the elements that share a random word.
    for shift in range(1, 9):
        both = (kept[:, shift:] & kept[:, :-shift]).float().mean().item()
        assert both == pytest.approx((1 - p) ** 2, abs=0.01)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), dropped)
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.7])
def test_alpha_dropout_keeps_its_share_the_mean_and_the_variance(p: float) -> None:
    torch.manual_seed(0)
    dropout, normal = AlphaDropout(p), torch.randn(300, 1001, requires_grad=True)
    torchs = nn.AlphaDropout(p)(torch.full((9999,), 3.0)).unique()
    assert AlphaDropout(p)(torch.full((9999,), 3.0)).unique().tolist() == [
        pytest.approx(value, rel=1e-4) for value in torchs.tolist()
    ]
    dropped = dropout(normal)
    assert dropped.mean().item() == pytest.approx(0.0, abs=0.02)
    assert dropped.std().item() == pytest.approx(1.0, abs=0.01)
    (gradient,) = torch.autograd.grad(dropped.sum(), normal)
    kept = gradient.bool()
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.005)
    assert torch.equal(dropout.eval()(normal), normal)
