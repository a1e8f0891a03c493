"""The list of models: complete, and true to the configs."""

import re

import pytest
import torch

from model.batch import Dims
from model.fusion import FUSIONS, Fusion, build_fusion
from train.config import read_config
from train.models import CONFIGS, describe_models

PARAGRAPHS = dict(zip(FUSIONS, describe_models().split("\n\n"), strict=True))

PUBLISHED = [name for name in FUSIONS if FUSIONS[name].PAPER != Fusion.PAPER]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_fusion_has_a_config(name: str) -> None:
    config = read_config(CONFIGS / f"{name}.toml")
    assert config.fusion.name == name
    assert config.output.name == name


@pytest.mark.parametrize("name", FUSIONS)
def test_every_fusion_has_a_paragraph(name: str) -> None:
    lines = PARAGRAPHS[name].splitlines()
    assert lines[0] == name
    labels = ["modalities", "loss", "parameters", "paper", "their code"]
    assert [line[2:14].strip() for line in lines[1:]] == labels
    assert all(line[14:].strip() for line in lines[1:])
    assert FUSIONS[name].PAPER in PARAGRAPHS[name]
    assert FUSIONS[name].CODE in PARAGRAPHS[name]


def test_a_paragraph_says_what_the_config_trains() -> None:
    expected = (
        r"modalities  slide, rna \(may be absent: slide, rna\)\n"
        r"  loss        discrete-time likelihood, 4 bins\n"
        r"  parameters  [\d,]+ \(embeddings 1,024 wide, 2,000 genes\)\n"
    )
    assert re.search(expected, PARAGRAPHS["porpoise"])
    assert "loss        Cox's partial likelihood\n" in PARAGRAPHS["hfb"]


def test_parameters_are_those_of_the_model_that_is_built() -> None:
    with torch.device("meta"):
        fusion = build_fusion("snn", {}, Dims(genes=5000, outputs=4))
    count = sum(value.numel() for value in fusion.parameters())
    assert f"parameters  {count:,} (5,000 genes)\n" in PARAGRAPHS["snn"]
