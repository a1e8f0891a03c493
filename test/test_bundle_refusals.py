"""Bundles that do not fit: each is refused with its own line."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_bundles import bundle_with, make_bundle

from model.bundle import Bundle
from model.encoders import ENCODERS
from model.errors import BundleError


def rewrite(
    path: Path,
    header: Callable[[dict[str, Any]], object] = lambda manifest: None,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda tensors: None,
) -> None:
    """Change a bundle's manifest and tensors in place."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    content = load_file(path)
    header(manifest)
    tensors(content)
    save_file(content, path, metadata={"manifest": json.dumps(manifest)})


def write_header(path: Path, text: str | None) -> None:
    metadata = {"other": "x"} if text is None else {"manifest": text}
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)


def first_member(manifest: dict[str, Any]) -> dict[str, Any]:
    member: dict[str, Any] = manifest["members"][0]
    return member


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.pop(name)


LITE = ENCODERS["efficientnet_lite0"]
REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (Path.unlink, "expected a bundle, found no file"),
    "a text file": (
        lambda path: path.write_text("not a bundle"),
        "expected safetensors with a manifest, found ",
    ),
    "an empty file": (
        lambda path: path.write_bytes(b""),
        "expected safetensors with a manifest, found ",
    ),
    "a cut file": (
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "expected safetensors with a manifest, found ",
    ),
    "a header of a terabyte": (
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
        "expected safetensors with a manifest, found ",
    ),
    "no manifest": (
        lambda path: write_header(path, None),
        "expected a bundle, found safetensors without a manifest",
    ),
    "no metadata": (
        lambda path: save_file({"x": torch.zeros(1)}, path),
        "expected a bundle, found safetensors without a manifest",
    ),
    "a manifest that is not JSON": (
        lambda path: write_header(path, "{format: 1}"),
        "expected safetensors with a manifest, found Expecting property name",
    ),
    "a manifest that is a list": (
        lambda path: write_header(path, "[1]"),
        "expected a bundle, found safetensors without a manifest",
    ),
    "a newer format": (
        lambda path: rewrite(path, lambda manifest: manifest.update(format=2)),
        "expected bundle format 1, found 2",
    ),
    "no format": (
        lambda path: rewrite(path, lambda manifest: manifest.pop("format")),
        "expected bundle format 1, found None",
    ),
    "an unknown field": (
        lambda path: rewrite(path, lambda manifest: manifest.update(colour="blue")),
        "manifest: colour: Extra inputs are not permitted",
    ),
    "an absent field": (
        lambda path: rewrite(path, lambda manifest: first_member(manifest).pop("dims")),
        "manifest: members.0.dims: Field required",
    ),
    "an unknown mapping": (
        lambda path: rewrite(path, lambda manifest: manifest.update(mapping="guess")),
        "manifest: mapping: expected 'rmst', 'median', 'kmq' or 'km_nearest'",
    ),
    "an unknown fusion": (
        lambda path: rewrite(path, lambda manifest: manifest.update(fusion="transformer")),
        "fusion: expected one of concat, pairwise, ",
    ),
    "an unknown setting": (
        lambda path: rewrite(path, lambda manifest: manifest["settings"].update(colour=1)),
        "fusion pairwise: expected one of modalities, optional, ",
    ),
    "an unknown encoder": (
        lambda path: bundle_with(
            LITE.model_dump() | {"id": "somebodys_own"}, width=LITE.width
        ).save(path),
        f"expected an encoder among {', '.join(ENCODERS)}, found 'somebodys_own'",
    ),
    "another preprocessing": (
        lambda path: bundle_with(
            LITE.model_dump() | {"mean": (0.485, 0.456, 0.406)}, width=LITE.width
        ).save(path),
        "expected the encoder efficientnet_lite0 as this program defines it, found another "
        "preprocessing or architecture in the manifest",
    ),
    "another embedding width": (
        lambda path: bundle_with(LITE.model_dump(), width=1024).save(path),
        "expected a fusion of 1280-wide embeddings for efficientnet_lite0, found 1024",
    ),
    "a gene less than the model has": (
        lambda path: rewrite(path, lambda manifest: first_member(manifest)["rna"]["genes"].pop()),
        "expected the manifest's tensors, found (9, 10, 10) genes, means and sds for 10 inputs",
    ),
    "a mean less than there are genes": (
        lambda path: rewrite(
            path,
            tensors=lambda tensors: tensors.update({"member.1.rna.mean": torch.zeros(9).double()}),
        ),
        "expected the manifest's tensors, found (10, 9, 10) genes, means and sds for 10 inputs",
    ),
    "a clinical column less than the model has": (
        lambda path: rewrite(
            path, lambda manifest: first_member(manifest)["clinical"].update(numbers=[])
        ),
        "expected the manifest's tensors, found 2 clinical columns for 4 inputs",
    ),
    "a sentence less than there are vectors": (
        lambda path: rewrite(
            path, lambda manifest: first_member(manifest)["clinical_text"].update(categories=[])
        ),
        "expected the manifest's tensors, found 6 vectors of 4 clinical sentences",
    ),
    "vectors of another width than the model reads": (
        lambda path: rewrite(
            path,
            tensors=lambda tensors: tensors.update(
                {"member.1.clinical_text.vectors": torch.zeros(6, 4)}
            ),
        ),
        "expected the manifest's tensors, found (2, 4) sentences and their width for (2, 5) inputs",
    ),
    "no vectors of the sentences": (
        lambda path: rewrite(path, tensors=drop("member.0.clinical_text.vectors")),
        "expected the manifest's tensors, found no 'clinical_text.vectors'",
    ),
    "no weights of a layer": (
        lambda path: rewrite(path, tensors=drop("member.1.fusion.head.weight")),
        "expected the manifest's tensors, found Error(s) in loading state_dict for Pairwise: "
        'Missing key(s) in state_dict: "head.weight".',
    ),
    "no mean of the genes": (
        lambda path: rewrite(path, tensors=drop("member.0.rna.mean")),
        "expected the manifest's tensors, found no 'rna.mean'",
    ),
    "no array of the mapping": (
        lambda path: rewrite(path, tensors=drop("mapping.km_times")),
        "the risk-to-time mapping lacks its array 'km_times'",
    ),
    "a member less than the manifest names": (
        lambda path: rewrite(
            path, lambda manifest: manifest["members"].append(first_member(manifest))
        ),
        "expected the manifest's tensors, found Error(s) in loading state_dict for Pairwise: ",
    ),
    "other widths than the weights have": (
        lambda path: rewrite(path, lambda manifest: manifest["settings"].update(rank=5)),
        "expected the manifest's tensors, found Error(s) in loading state_dict for Pairwise: ",
    ),
}


def test_a_bundle_from_before_there_were_sentences_loads(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle().save(path)

    def older(manifest: dict[str, Any]) -> None:
        for member in manifest["members"]:
            del member["clinical_text"]
            del member["dims"]["clinical_tokens"]

    rewrite(path, older, lambda tensors: tensors.pop("member.0.clinical_text.vectors"))
    members = Bundle.load(path).members
    assert [member.clinical_text for member in members] == [None, None]
    assert {member.fusion.dims.clinical_tokens for member in members} == {(0, 0)}


@pytest.mark.parametrize(("damage", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_bundle_that_does_not_fit_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle().save(path)
    Bundle.load(path)
    damage(path)
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}")
    assert "\n" not in text
