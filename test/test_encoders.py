"""The registry of encoders against what their authors published."""

from typing import Any

import pytest
import timm
import torch
from encoder_stand_ins import PUBLISHED_CALLS, PUBLISHED_VALUES
from pydantic import ValidationError

from model.encoder import build_network
from model.encoders import ENCODERS, EncoderSpec


def test_registry_has_a_published_row_for_every_encoder() -> None:
    assert ENCODERS.keys() == PUBLISHED_VALUES.keys()
    assert all(spec_id == spec.id for spec_id, spec in ENCODERS.items())


@pytest.mark.slow
@pytest.mark.parametrize("spec_id", ENCODERS)
def test_preprocessing_and_size_are_the_published_ones(spec_id: str) -> None:
    spec = ENCODERS[spec_id]
    (mean, std), width, millions, rounding = PUBLISHED_VALUES[spec_id]
    assert (spec.mean, spec.std, spec.size_px, spec.width) == (mean, std, 224, width)
    with torch.device("meta"):
        network = build_network(spec)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=rounding)
    tokens = 2 if spec.pooling == "class+mean" else 1
    assert network.num_features * tokens == spec.width


@pytest.mark.slow
@pytest.mark.parametrize("spec_id", PUBLISHED_CALLS)
def test_network_is_that_of_the_published_call(spec_id: str) -> None:
    name, settings = PUBLISHED_CALLS[spec_id]
    with torch.device("meta"):
        published: Any = timm.create_model(name, pretrained=False, **settings)
        ours = build_network(ENCODERS[spec_id])
    assert repr(ours) == repr(published)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert ours.num_prefix_tokens == published.num_prefix_tokens
    assert ours.patch_embed.patch_size == (ENCODERS[spec_id].token_px,) * 2
    assert ours.patch_embed.img_size == published.patch_embed.img_size == (224, 224)


@pytest.mark.parametrize("spec_id", ENCODERS)
def test_spec_survives_json(spec_id: str) -> None:
    spec = ENCODERS[spec_id]
    assert EncoderSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_refuses_a_network_that_timm_would_look_for_online() -> None:
    fields = ENCODERS["uni"].model_dump() | {"architecture": "hf-hub:MahmoodLab/UNI"}
    with pytest.raises(ValidationError, match="architecture"):
        EncoderSpec.model_validate(fields)
