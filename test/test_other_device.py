"""Fusions, training and the whole of a prediction leave no tensor behind on the CPU.

No GPU is needed: `other_device` stands in for one. A new fusion needs no test of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_device import elsewhere
from synthetic import no_warning
from torch import Tensor
from toy_fusions import DIMS, NAMES, build_toy, toy_cases

from model.batch import collate
from model.bundle import Bundle
from model.case import Case, Record, SlideFile
from model.encoder import Encoder
from model.explain import explain_case
from model.fusion import FUSIONS
from model.predictor import Predictor
from train.config import FitConfig
from train.dataset import Fold
from train.loop import Plan, predict_risks, train_fusion

__all__ = ["elsewhere"]

each_fusion = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.arange(3),
        lambda x: torch.zeros(3) @ x,
        lambda x: torch.cat([x, torch.zeros(1)]),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.zeros(3).add_(x),
        lambda x: x.numpy(),
    ],
)
def test_tensors_of_two_devices_do_not_meet(
    mixed: Callable[[Tensor], object], elsewhere: torch.device
) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        mixed(torch.ones(3, device=elsewhere))


@pytest.mark.slow
@each_fusion
def test_a_fusion_computes_where_its_batch_is(name: str, elsewhere: torch.device) -> None:
    fusion, batch = build_toy(name), collate(toy_cases(5, 1, 3), DIMS)
    expected = fusion(batch)
    expected.sum().backward()
    gradients = {key: p.grad for key, p in fusion.named_parameters()}
    fusion = build_toy(name).to(elsewhere)
    found = fusion(batch.to(elsewhere))
    found.sum().backward()
    assert found.device == elsewhere
    assert torch.allclose(found.cpu(), expected, atol=1e-6)
    for key, parameter in fusion.named_parameters():
        if gradients[key] is None:
            assert parameter.grad is None
        else:
            assert torch.allclose(parameter.grad.cpu(), gradients[key], atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [*((name, "cox") for name in NAMES), ("concat", "nll")])
def test_a_fusion_is_trained_where_it_is(name: str, loss: Any, elsewhere: torch.device) -> None:
    sizes = [2, 5, 1, 3, 4, 2, 3, 1]
    optional = FUSIONS[name].Config().modalities
    fold = Fold(
        case_ids=tuple(map(str, range(len(sizes)))),
        inputs=tuple(toy_cases(*sizes)),
        bags=None,
        dims=DIMS,
        optional=optional,
        event=torch.tensor([True, False] * 4),
        time=torch.arange(1.0, 9.0, dtype=torch.float64),
        strata=torch.tensor([0, 0, 1, 1] * 2),
    )
    config = FitConfig(epochs=1, inner_folds=0, loss=loss, bins=4, chunk_patches=10)
    fusion = build_toy(name, outputs=1 if loss == "cox" else 4, optional=optional).to(elsewhere)
    before = [parameter.cpu() for parameter in fusion.parameters()]
    train_fusion(fusion, fold, Plan(config, epochs=1, seed=(0,)))
    assert np.isfinite(predict_risks(fusion, fold, config)).all()
    after = [parameter.cpu() for parameter in fusion.parameters()]
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.slow
def test_a_case_is_scored_and_explained_where_the_model_is(
    lenient_predictor: Predictor,
    contents: dict[str, Any],
    elsewhere: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from job_files import CLINICAL, MASK, RNA, SLIDE

    without_mode = Encoder._embed.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(Encoder, "_embed", torch.no_grad()(without_mode))
    case = Case(
        "C1",
        slides=(SlideFile(contents[SLIDE], contents[MASK]),) * 2,
        rna=Record(contents[RNA], Path("rna.json")),
        clinical=Record(contents[CLINICAL], Path("cd.json")),
    )
    bundle = lenient_predictor.bundle
    path = tmp_path / "bundle.safetensors"
    bundle.save(path)
    predictor = Predictor(Bundle.load(path), weights_dirs=[], device=elsewhere)
    bags = []
    for each in (predictor, lenient_predictor):
        bag = each.embed(case, warn=no_warning, progress=lambda done, total: None)
        assert bag is not None
        bags.append(bag)
    there, here = bags
    assert torch.allclose(there.embeddings, here.embeddings, atol=1e-3)
    risk = predictor.risk(case, here, warn=no_warning)
    assert risk == pytest.approx(lenient_predictor.risk(case, here, warn=no_warning), abs=1e-5)
    found = explain_case(predictor, case, there, tmp_path, bundle_sha256="", warn=no_warning)
    assert found.modalities.keys() == {"slide", "rna", "clinical"}
