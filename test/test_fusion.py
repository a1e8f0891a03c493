"""The contract that every registered fusion keeps; a new one needs no test of its own for it."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_fusions import DIMS, NAMES, TOY_SETTINGS, build_toy, toy_cases, without

from model.batch import MODALITIES, Batch, CaseInputs, Modality, collate
from model.errors import ConfigError
from model.fusion import FUSIONS, Fusion, FusionConfig, build_fusion, read_settings
from model.fusion.base import Labels
from train.losses import cox_nll

ORDER_MATTERS: frozenset[str] = frozenset({"transmil"})
"""Fusions that read the patches as a sequence, by their authors' design."""

SHIFTS = ("score.bias",)
"""Parameters that only shift the scores of a softmax, and so have no effect and no gradient."""

ROUNDING = 2e-8
"""Ten times the gradient that rounding gives a parameter without effect."""

ATTENTIVE = [name for name in NAMES if FUSIONS[name].attention is not Fusion.attention]

each_fusion = pytest.mark.parametrize("name", NAMES)
each_modality = pytest.mark.parametrize("modality", MODALITIES)
each_output = pytest.mark.parametrize("outputs", [1, 4])


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def uses(name: str, modality: Modality) -> bool:
    return modality in FUSIONS[name].Config().modalities


def redrawn(case: CaseInputs, modality: Modality) -> CaseInputs:
    """Return the case with other content in one modality."""
    (other,) = toy_cases(len(case.bag) if case.bag is not None else 1, seed=99)
    fields = {"slide": ["bag"], "rna": ["rna"], "clinical": ["clinical", "clinical_tokens"]}
    return replace(case, **{field: getattr(other, field) for field in fields[modality]})


# --- outputs --------------------------------------------------------------------------------------


@each_output
@each_fusion
def test_logits_are_finite_and_of_one_shape(name: str, outputs: int) -> None:
    logits = build_toy(name, outputs=outputs)(collate(toy_cases(5, 1, 3), DIMS))
    assert logits.shape == (3, outputs)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert len(set(logits[:, 0].tolist())) == 3


@pytest.mark.parametrize(("shape", "outputs"), [((3,), 1), ((3, 5), 4), ((1, 1), 1)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...], outputs: int) -> None:
    class Odd(Fusion):
        def forward(self, batch: Batch) -> Tensor:
            return torch.zeros(shape)

    fusion = Odd(FusionConfig(), DIMS.model_copy(update={"outputs": outputs}))
    with pytest.raises(ConfigError) as caught:
        fusion(collate(toy_cases(5, 1, 3), DIMS))
    assert str(caught.value) == f"Odd: expected logits (3, {outputs}), found {shape}"


@each_output
@each_fusion
def test_a_batch_equals_its_singles(name: str, outputs: int) -> None:
    fusion, cases = build_toy(name, outputs=outputs), toy_cases(5, 1, 3)
    singles = torch.cat([fusion(collate([case], DIMS)) for case in cases])
    assert close(fusion(collate(cases, DIMS)), singles)


@each_fusion
def test_mixed_precision_is_near_and_finite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a piece of the batch, which pools take apart, has no patch of some case."""
    monkeypatch.setattr("model.fusion.layers.piece_size", lambda _: 4)
    uses_slide = "slide" in FUSIONS[name].Config().modalities
    fusion = build_toy(name, optional=("slide",) if uses_slide else ())
    cases = toy_cases(9, 2, 5)
    batch = collate([*cases, without(cases[1], "slide")] if uses_slide else cases, DIMS)
    expected = fusion(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = fusion(batch)
    torch.autograd.backward(found.float().sum())
    assert torch.allclose(found.float(), expected, atol=0.1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@each_fusion
def test_evaluation_is_deterministic(name: str) -> None:
    fusion, batch = build_toy(name), collate(toy_cases(5, 1, 3), DIMS)
    torch.manual_seed(1)
    first = fusion(batch)
    torch.manual_seed(2)
    assert fusion(batch).equal(first)


@each_fusion
def test_dropout_is_the_same_without_a_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step's first pass has none, and its second carries the gradient back."""
    monkeypatch.setattr("model.fusion.layers.piece_size", lambda _: 4)
    widths = {
        key: value for key, value in TOY_SETTINGS.get(name, {}).items() if "dropout" not in key
    }
    fusion = build_fusion(name, widths, DIMS).train()
    batch = collate(toy_cases(9, 2, 5), DIMS)
    torch.manual_seed(1)
    expected = fusion(batch)
    torch.manual_seed(1)
    with torch.no_grad():
        assert fusion(batch).equal(expected)
    if any("dropout" in key for key in type(fusion).Config.model_fields):
        assert not fusion(batch).equal(expected)


@each_fusion
def test_a_state_dict_holds_the_whole_model(name: str) -> None:
    batch = collate(toy_cases(5, 1, 3), DIMS)
    optional = FUSIONS[name].Config().modalities
    saved = build_toy(name, optional=optional, seed=1)
    loaded = build_toy(name, optional=optional, seed=2)
    assert not close(loaded(batch), saved(batch))
    loaded.load_state_dict(saved.state_dict())
    assert loaded(batch).equal(saved(batch))


# --- patches --------------------------------------------------------------------------------------


@each_output
@each_fusion
def test_padding_never_matters(name: str, outputs: int) -> None:
    fusion, batch = build_toy(name, outputs=outputs), collate(toy_cases(5, 1, 3), DIMS)
    torch.manual_seed(3)
    garbage = torch.where(batch.mask[:, :, None], batch.bag, 100 * torch.randn_like(batch.bag))
    longer = replace(
        batch,
        bag=torch.cat([garbage, 100 * torch.randn(3, 4, DIMS.embedding)], dim=1),
        mask=torch.cat([batch.mask, torch.zeros(3, 4, dtype=torch.bool)], dim=1),
        coords=torch.cat([batch.coords, torch.full((3, 4, 2), 77)], dim=1),
        slide_index=torch.cat([batch.slide_index, torch.full((3, 4), 5)], dim=1),
    )
    assert close(fusion(longer), fusion(batch))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ORDER_MATTERS])
def test_the_order_of_patches_never_matters(name: str) -> None:
    fusion, cases = build_toy(name), toy_cases(7, 4)
    turned = [
        replace(case, bag=case.bag.flip(0), coords=case.coords.flip(0))
        for case in cases
        if case.bag is not None and case.coords is not None
    ]
    assert close(fusion(collate(turned, DIMS)), fusion(collate(cases, DIMS)))


@each_fusion
def test_a_bag_of_one_patch(name: str) -> None:
    fusion, batch = build_toy(name), collate(toy_cases(1), DIMS)
    assert torch.isfinite(fusion(batch)).all()
    if name in ATTENTIVE:
        assert fusion.attention(batch).tolist() == [[pytest.approx(1.0)]]


@pytest.mark.parametrize("name", ATTENTIVE)
def test_attention_sums_to_one_over_real_patches(name: str) -> None:
    batch = collate(toy_cases(5, 1, 3), DIMS)
    weights = build_toy(name).attention(batch)
    assert weights.shape == batch.mask.shape
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0] * 3)
    assert (weights[batch.mask] > 0).all()
    assert not weights[~batch.mask].any()


def test_a_fusion_without_attention_says_so() -> None:
    class Ages(Fusion):
        Config = FusionConfig

        def forward(self, batch: Batch) -> Tensor:
            return batch.clinical[:, :1]

    with pytest.raises(ValueError, match=r"^Ages weighs no patches of 2 cases$"):
        Ages(FusionConfig(), DIMS).attention(collate(toy_cases(2, 3), DIMS))


# --- modalities -----------------------------------------------------------------------------------


@each_modality
@each_fusion
def test_the_output_depends_on_each_modality_of_its_own_case(name: str, modality: Modality) -> None:
    fusion, cases = build_toy(name), toy_cases(5, 3)
    before = fusion(collate(cases, DIMS))
    after = fusion(collate([redrawn(cases[0], modality), cases[1]], DIMS))
    assert close(after[0], before[0]) is not uses(name, modality)
    assert close(after[1], before[1])


OPTIONAL = [(name, modality) for name in NAMES for modality in MODALITIES if uses(name, modality)]
each_optional = pytest.mark.parametrize(("name", "modality"), OPTIONAL)


def hidden(batch: Batch, modality: Modality) -> Batch:
    """Return the batch with the modality declared absent, its content left where it was."""
    absent = torch.zeros_like(batch.present(modality))
    if modality == "slide":
        return replace(batch, slide_present=absent, mask=torch.zeros_like(batch.mask))
    return replace(batch, **{f"{modality}_present": absent})


@each_optional
def test_an_absent_modality_has_no_content(name: str, modality: Modality) -> None:
    fusion, cases = build_toy(name, optional=(modality,)), toy_cases(5, 3)
    absent = fusion(collate([without(case, modality) for case in cases], DIMS))
    assert torch.isfinite(absent).all()
    assert not close(absent, fusion(collate(cases, DIMS)))
    for any_content in (cases, [redrawn(case, modality) for case in cases]):
        assert close(fusion(hidden(collate(any_content, DIMS), modality)), absent)


@each_optional
def test_a_learned_stand_in_takes_its_place(name: str, modality: Modality) -> None:
    fusion, (first, second) = build_toy(name, optional=(modality,)), toy_cases(5, 3)
    batch = collate([without(first, modality), second], DIMS)
    before = fusion(batch)
    always_there = set(build_toy(name).state_dict())
    stand_ins = [p for key, p in fusion.named_parameters() if key not in always_there]
    assert stand_ins
    with torch.no_grad():
        for stand_in in stand_ins:
            stand_in.add_(torch.randn_like(stand_in))  # a shift alone may be normalised away
    after = fusion(batch)
    assert not close(after[0], before[0])
    assert after[1].equal(before[1])


# --- learning -------------------------------------------------------------------------------------


def labels_of(cases: int) -> Labels:
    """Make up what happened to so many cases."""
    draw = torch.Generator().manual_seed(6)
    return Labels(torch.arange(cases) % 3 > 0, torch.rand(cases, generator=draw))


@each_output
@each_fusion
def test_every_parameter_gets_a_gradient(name: str, outputs: int) -> None:
    used = FUSIONS[name].Config().modalities
    fusion = build_toy(name, outputs=outputs, optional=used)
    cases = toy_cases(5, 1, 3, 4, 2, 6)
    lacking = [without(case, modality) for case, modality in zip(cases, used, strict=False)]
    batch = collate([*cases, *lacking], DIMS)
    logits = fusion(batch)
    own = fusion.auxiliary_loss(batch, labels_of(len(batch)))
    torch.autograd.backward((logits * torch.randn_like(logits)).sum() + (0 if own is None else own))
    without_effect = {
        key
        for key, value in fusion.named_parameters()
        if value.grad is None or not (value.grad.abs() > ROUNDING).any()
    }
    assert {key for key in without_effect if not key.endswith(SHIFTS)} == set()


@each_fusion
def test_a_batch_without_events_teaches_nothing(name: str) -> None:
    fusion = build_toy(name).train()
    logits = fusion(collate(toy_cases(5, 1, 3), DIMS))
    loss = cox_nll(logits, event=torch.zeros(3, dtype=torch.bool), time=torch.arange(1.0, 4.0))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    gradients = [value.grad for value in fusion.parameters() if value.grad is not None]
    assert gradients  # those without one serve an objective of the fusion's own
    assert not any(gradient.any() for gradient in gradients)


def concordance(risk: list[float], time: list[float], event: list[bool]) -> float:
    """Return Harrell's C: the share of comparable pairs that the risks put in order."""
    pairs = [
        (early, late)
        for one, two in combinations(range(len(time)), 2)
        for early, late in [sorted((one, two), key=time.__getitem__)]
        if event[early]
    ]
    return sum(risk[early] > risk[late] for early, late in pairs) / len(pairs)


@pytest.mark.slow
@each_fusion
def test_it_learns_16_cases(name: str) -> None:
    fusion = build_toy(name)
    batch = collate(toy_cases(*[5, 1, 3, 8] * 4), DIMS)
    torch.manual_seed(4)
    time, event = torch.rand(16), torch.arange(16) % 3 > 0
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.01)
    learned = 0.0
    for step in range(100):
        fusion.train()
        optimizer.zero_grad()
        torch.autograd.backward(cox_nll(fusion(batch), event=event, time=time))
        optimizer.step()
        if step % 10 == 9:
            risk = fusion.eval()(batch)[:, 0].tolist()
            learned = concordance(risk, time.tolist(), event.tolist())
        if learned > 0.9:
            return
    pytest.fail(f"it orders {learned:.2f} of the pairs after 100 steps")


# --- settings -------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown name": ("transformer", {}, "fusion: expected one of concat, "),
    "unknown setting": (
        "concat",
        {"colour": 1},
        "fusion concat: expected one of modalities, ",
    ),
    "out of range": ("concat", {"dropout": 1.0}, "fusion concat: dropout: expected less"),
    "unknown modality": (
        "concat",
        {"modalities": ["mri"]},
        "fusion concat: modalities.0: expected",
    ),
    "no modality": ("concat", {"modalities": []}, "fusion concat: modalities: expected at least"),
    "optional but unused": (
        "concat",
        {"modalities": ["rna"], "optional": ["slide", "clinical"]},
        "optional modalities that are not used: clinical, slide",
    ),
    "a width below 0": ("concat", {"rna_widths": [8, -3]}, "fusion concat: rna_widths.1: expected"),
    "a width of 0": (
        "mlp",
        {"widths": [0]},
        "fusion mlp: widths.0: expected greater than 0",
    ),
    "no finite number": (
        "hsfsurv",
        {"temperature": math.inf},
        "temperature: expected a fin",
    ),
    "no pair": (
        "pairwise",
        {"modalities": ["rna"]},
        "modalities: expected two or more to pair, found rna",
    ),
    "no pair, twice the same": (
        "pairwise_residual",
        {"modalities": ["rna", "rna"]},
        "modalities: expected two or more to pair, found rna, rna",
    ),
} | {
    f"heads that do not divide {name}'s width": (
        name,
        {"width": 10, "heads": 4},
        f"fusion {name}: width 10: expected a multiple of heads, 4",
    )
    for name, fusion in FUSIONS.items()
    if "heads" in fusion.Config.model_fields
}


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit_are_one_line(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_fusion(name, settings, DIMS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError) as caught_early:
        read_settings(name, settings)
    assert str(caught_early.value) == str(caught.value)
