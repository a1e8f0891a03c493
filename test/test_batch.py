"""Batches: padding, absent modalities, presence flags, widths."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from model.batch import MODALITIES, Batch, CaseInputs, Dims, Modality, collate

DIMS = Dims(embedding=2, genes=3, clinical=1, clinical_tokens=(3, 2))


def rows(*values: float) -> Tensor:
    """Return a bag (N, 2) of rows that hold one value each."""
    return torch.tensor(values)[:, None].expand(-1, 2).clone()


def two_cases() -> Batch:
    """Return a batch of a case with all modalities and one with a longer bag only."""
    whole = CaseInputs(
        bag=rows(1.0),
        coords=torch.tensor([[5, 6]]),
        rna=torch.tensor([1.0, 2.0, 3.0]),
        clinical=torch.tensor([4.0]),
        clinical_tokens=torch.tensor([[5.0, 6.0], [7.0, 8.0], [9.0, 0.0]]),
    )
    slide_only = CaseInputs(bag=rows(7.0, 8.0, 9.0))
    return collate([whole, slide_only], DIMS)


def test_bags_are_padded_to_the_longest() -> None:
    batch = two_cases()
    assert len(batch) == 2
    assert batch.bag[:, :, 0].tolist() == [[1, 0, 0], [7, 8, 9]]
    assert batch.bag[:, :, 1].tolist() == [[1, 0, 0], [7, 8, 9]]
    assert batch.mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.coords.tolist() == [[[5, 6], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]]
    assert batch.bag.dtype == torch.float32
    assert batch.coords.dtype == torch.int64


def test_an_absent_modality_holds_zeros_and_says_so() -> None:
    batch = two_cases()
    assert batch.rna.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert batch.clinical.tolist() == [[4], [0]]
    assert batch.clinical_tokens.tolist() == [[[5, 6], [7, 8], [9, 0]], [[0, 0]] * 3]
    assert batch.slide_present.tolist() == [True, True]
    assert batch.rna_present.tolist() == [True, False]
    assert batch.clinical_present.tolist() == [True, False]


@pytest.mark.parametrize("lone", MODALITIES)
def test_presence_by_name(lone: Modality) -> None:
    fields = {"slide": "bag", "rna": "rna", "clinical": "clinical"}
    values = {"slide": rows(1.0), "rna": torch.ones(3), "clinical": torch.ones(1)}
    case = CaseInputs(**{fields[lone]: values[lone]})
    assert case.modalities == (lone,)
    batch = collate([CaseInputs(), case], DIMS)
    for name in MODALITIES:
        assert batch.present(name).tolist() == [False, name == lone]


@pytest.mark.parametrize("kept", [(), *((name,) for name in MODALITIES), MODALITIES])
def test_a_case_of_some_modalities_has_no_tensor_of_others(kept: tuple[Modality, ...]) -> None:
    tensors = {
        "slide": ["bag", "coords", "slide_index"],
        "rna": ["rna"],
        "clinical": ["clinical", "clinical_tokens"],
    }
    owners = {tensor: name for name, names in tensors.items() for tensor in names}
    assert set(owners) == {field.name for field in fields(CaseInputs)}
    whole = CaseInputs(**{tensor: torch.ones(1) for tensor in owners})
    case = whole.only(kept)
    for tensor, owner in owners.items():
        assert getattr(case, tensor) is (getattr(whole, tensor) if owner in kept else None)


def test_a_case_without_a_slide_has_one_padding_patch() -> None:
    batch = collate([CaseInputs(rna=torch.ones(3)), CaseInputs()], DIMS)
    assert batch.bag.shape == (2, 1, 2)
    assert not batch.mask.any()
    assert not batch.slide_present.any()


def test_an_empty_bag_is_no_slide() -> None:
    batch = collate([CaseInputs(bag=torch.zeros(0, 2), coords=torch.zeros(0, 2))], DIMS)
    assert batch.bag.shape == (1, 1, 2)
    assert batch.slide_present.tolist() == [False]


def test_unused_modalities_are_zero_wide() -> None:
    batch = collate([CaseInputs(clinical=torch.ones(1))], Dims(clinical=1))
    assert batch.bag.shape == (1, 1, 0)
    assert batch.rna.shape == (1, 0)
    assert batch.clinical.shape == (1, 1)
    assert batch.clinical_tokens.shape == (1, 0, 0)


def test_a_vector_of_another_width_does_not_pass() -> None:
    with pytest.raises(RuntimeError, match="size"):
        collate([CaseInputs(bag=torch.ones(2, 5))], DIMS)
    with pytest.raises(RuntimeError, match="size"):
        collate([CaseInputs(rna=torch.ones(4)), CaseInputs()], DIMS)


def test_a_batch_moves_as_a_whole() -> None:
    moved = two_cases().to(torch.device("meta"))
    assert {value.device.type for value in vars(moved).values()} == {"meta"}
