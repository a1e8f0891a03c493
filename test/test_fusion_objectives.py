"""The fusions that train on an objective of their own, and those that may be told the record."""

from copy import deepcopy

import pytest
import torch
from toy_fusions import DIMS, NAMES, TOY_SETTINGS, build_toy, toy_cases, without

from model.batch import collate
from model.errors import ConfigError
from model.fusion import FUSIONS, Fusion, build_fusion
from model.fusion.base import Labels

BATCH = collate(toy_cases(5, 1, 3, 4, 2, 7), DIMS)
LABELS = Labels(
    torch.tensor([True, True, False, True, True, False]),
    torch.tensor([0.1, 0.9, 0.3, 0.4, 0.2, 0.7]),
)
OWN = [name for name in NAMES if FUSIONS[name].auxiliary_loss is not Fusion.auxiliary_loss]

each_objective = pytest.mark.parametrize("name", OWN)
each_of_gene_sets = pytest.mark.parametrize("name", ["ccl", "hsfsurv", "mmp", "motcat", "pibd"])


@pytest.fixture(autouse=True)
def _with_the_cosine_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give SurvPGC its objective, which is off unless asked for."""
    monkeypatch.setitem(TOY_SETTINGS, "survpgc", TOY_SETTINGS["survpgc"] | {"beta": 0.3})


def objective(fusion: Fusion) -> torch.Tensor:
    loss = fusion.auxiliary_loss(BATCH, LABELS)
    assert loss is not None
    return loss


@each_objective
def test_only_the_objective_changes_buffers_and_only_in_training(name: str) -> None:
    fusion = build_toy(name)
    before = deepcopy(dict(fusion.named_buffers()))
    objective(fusion)
    fusion.train()(BATCH)
    assert all(value.equal(before[key]) for key, value in fusion.named_buffers())


# MoME's routers start where its objective has its least value: all experts alike.
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OWN if name != "mome"])
def test_an_objective_can_be_trained_on_chunk_after_chunk(name: str) -> None:
    fusion = build_toy(name).train()
    optimiser = torch.optim.Adam(fusion.parameters(), lr=0.005)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = objective(fusion)
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[5:10])


@each_objective
def test_an_objective_of_one_case_without_an_event_is_finite(name: str) -> None:
    fusion = build_toy(name, optional=FUSIONS[name].Config().modalities).train()
    (case,) = toy_cases(4)
    labels = Labels(torch.tensor([False]), torch.tensor([0.5]))
    for lacking in (case, without(case, "slide"), without(case, "rna")):
        loss = fusion.auxiliary_loss(collate([lacking], DIMS), labels)
        assert loss is not None
        assert torch.isfinite(loss)


@each_objective
def test_a_stand_in_does_not_drown_all_other_gradients(name: str) -> None:
    """Gradients are clipped together; a stand-in of zeros had 1e10 of a cosine."""
    fusion = build_toy(name, optional=FUSIONS[name].Config().modalities).train()
    first, second, third = toy_cases(4, 3, 5)
    batch = collate([first, without(second, "slide"), third], DIMS)
    logits = fusion(batch)
    labels = Labels(torch.tensor([True, False, True]), torch.tensor([0.5, 0.7, 0.9]))
    torch.autograd.backward(logits.sum() + fusion.auxiliary_loss(batch, labels))
    found = [value.grad.norm() for value in fusion.parameters() if value.grad is not None]
    assert max(found) < 1e4


@each_objective
def test_an_objective_in_half_precision(name: str) -> None:
    fusion = build_toy(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            torch.autograd.backward(objective(fusion))
    assert all(torch.isfinite(value).all() for value in fusion.state_dict().values())


@each_of_gene_sets
def test_gene_sets_are_asked_for(name: str) -> None:
    dims = DIMS.model_copy(update={"gene_sets": {}})
    message = rf"^fusion {name}: expected gene sets \(\[rna\] gene_sets\), found none$"
    with pytest.raises(ConfigError, match=message):
        build_fusion(name, TOY_SETTINGS[name], dims)


@each_of_gene_sets
def test_the_clinical_record_may_join(name: str) -> None:
    settings = TOY_SETTINGS[name] | {
        "modalities": ["slide", "rna", "clinical"],
        "optional": ["clinical"],
    }
    fusion = build_fusion(name, settings, DIMS).eval()
    cases = toy_cases(5, 3)
    joined = fusion(collate(cases, DIMS))
    absent = fusion(collate([without(cases[0], "clinical"), cases[1]], DIMS))
    assert not torch.allclose(absent[0], joined[0])
    assert torch.allclose(absent[1], joined[1], atol=1e-6)
