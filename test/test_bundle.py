"""Bundles: the round trip, the refusals, the manifest on the command line."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_fusions import DIMS, NAMES, TOY_SETTINGS, build_toy, toy_cases

from model.batch import Bag, Batch, CaseInputs, collate
from model.bundle import Bundle, Manifest, Member, Task, read_manifest
from model.case import Case, Record
from model.clinical import CategoryColumn, ClinicalSpec, NumberColumn
from model.encoder import ENCODERS
from model.errors import BundleError
from model.fusion import Fusion, FusionConfig
from model.patches import PatchSpec
from model.predictor import Predictor
from model.rna import RnaSpec
from model.survival import TimeMapping

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")

MAPPING = TimeMapping(
    kind="rmst",
    slope=0.7,
    center=0.1,
    spread=1.3,
    tau=60.0,
    events=3,
    event_times=np.array([10.0, 20.0, 40.0]),
    cum_hazard=np.array([0.1, 0.3, 0.9]),
    km_times=np.array([0.0, 10.0, 20.0, 40.0]),
    km_survival=np.array([1.0, 0.8, 0.6, 0.3]),
    risks=np.array([-1.0, 0.0, 0.5, 2.0]),
)
RNA = RnaSpec(
    genes=tuple(f"G{index}" for index in range(DIMS.genes)),
    scale="log",
    mean=np.linspace(3.7, 12, DIMS.genes),
    sd=np.linspace(0.5, 2, DIMS.genes),
    max_missing=0.2,
)
CLINICAL = ClinicalSpec(
    numbers=(NumberColumn(name="age", mean=70.0, sd=9.0),),
    categories=(CategoryColumn(name="stage", values=("t1hg",)),),
    missing=("-1",),
)


def make_bundle(name: str = "pairwise", **changes: Any) -> Bundle:
    """Make a bundle of two members whose patches would be six wide embeddings of no encoder."""
    members = tuple(
        Member(
            fusion=build_toy(name, optional=("rna",), seed=seed),
            rna=RNA,
            clinical=CLINICAL,
            risk_mean=0.25 * seed,
            risk_sd=1.0 + seed,
        )
        for seed in range(2)
    )
    manifest = Manifest(
        notice="demonstration",
        task=Task(endpoint="time to nothing", unit="months", interface="chimera_task3"),
        encoder=None,
        patches=None,
        fusion=name,
        settings=members[0].fusion.config.model_dump(mode="json"),
        members=tuple(member.manifest() for member in members),
        mapping=MAPPING.kind,
        provenance={"version": "0.1.0", "metrics": {"c_index": 0.625}},
    )
    return Bundle(manifest.model_copy(update=changes), members, MAPPING)


def a_case() -> Case:
    genes: dict[str, object] = {gene: 8.0 + index for index, gene in enumerate(RNA.genes)}
    return Case(
        case_id="3A_001",
        rna=Record(genes, Path("rna.json")),
        clinical=Record({"age": 72, "stage": "T1HG"}, Path("clinical.json")),
    )


def a_bag() -> Bag:
    (case,) = toy_cases(5)
    assert case.bag is not None and case.coords is not None
    return Bag(case.bag, case.coords, torch.zeros(5, dtype=torch.int64))


def risks(bundle: Bundle) -> list[list[float]]:
    """Return every member's risks of cases with and without RNA."""
    warnings: list[str] = []
    whole, no_rna = a_case(), replace(a_case(), rna=None)
    rows = []
    for member in bundle.members:
        inputs = [member.inputs(case, a_bag(), warn=warnings.append) for case in (whole, no_rna)]
        rows.append(member.risk(member.collate(inputs)).tolist())
    assert warnings == []
    return rows


# --- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_bundle_is_the_one_that_was_saved(tmp_path: Path, name: str) -> None:
    saved = make_bundle(name)
    path = tmp_path / "new" / "bundle.safetensors"
    saved.save(path)
    assert list(path.parent.iterdir()) == [path]
    loaded = Bundle.load(path)

    assert loaded.manifest == saved.manifest == read_manifest(path)
    assert risks(loaded) == risks(saved)
    assert len({value for row in risks(saved) for value in row}) == 4
    there = MAPPING.time([-2.0, 0.0, 3.0]).tolist()
    assert loaded.mapping.time([-2.0, 0.0, 3.0]).tolist() == there
    assert not any(member.fusion.training for member in loaded.members)
    for old, new in zip(saved.members, loaded.members, strict=True):
        assert new.rna is not None
        assert new.rna.genes == RNA.genes
        assert new.rna.mean.tolist() == RNA.mean.tolist()
        assert new.rna.sd.tolist() == RNA.sd.tolist()
        assert (new.rna.scale, new.rna.max_missing) == ("log", 0.2)
        assert new.clinical == CLINICAL
        assert (new.risk_mean, new.risk_sd) == (old.risk_mean, old.risk_sd)


def test_a_bundle_of_one_modality(tmp_path: Path) -> None:
    settings = TOY_SETTINGS["concat"] | {"modalities": ["clinical"]}
    from model.fusion import build_fusion

    dims = DIMS.model_copy(update={"embedding": 0, "genes": 0})
    member = Member(build_fusion("concat", settings, dims).eval(), None, CLINICAL, 0.0, 1.0)
    whole = make_bundle("concat")
    manifest = whole.manifest.model_copy(
        update={"settings": settings, "members": (member.manifest(),)}
    )
    path = tmp_path / "bundle.safetensors"
    Bundle(manifest, (member,), MAPPING).save(path)
    loaded = Bundle.load(path)
    assert loaded.members[0].rna is None
    assert risks(loaded) == risks(Bundle(manifest, (member,), MAPPING))


def test_an_encoder_and_its_patches_travel_along(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    # Whoever brings weights pins their sha256; the rest of the spec is this program's.
    mine = ENCODERS["uni"].model_copy(update={"weights_sha256": "0" * 64})
    patches = PatchSpec(mpp=0.5)
    bundle_with(mine.model_dump(), width=mine.width, patches=patches).save(path)
    manifest = Bundle.load(path).manifest
    assert manifest.encoder == mine
    assert manifest.patches == patches


def test_saving_replaces_the_bundle_before(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle("concat").save(path)
    make_bundle("pairwise").save(path)
    assert read_manifest(path).fusion == "pairwise"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bundle.safetensors"
    make_bundle("concat").save(path)

    def full_disk(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("model.bundle.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_bundle("pairwise").save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_manifest(path).fusion == "concat"


# --- refusals -------------------------------------------------------------------------------------


def bundle_with(encoder: dict[str, Any], *, width: int, patches: PatchSpec | None = None) -> Bundle:
    """Make a bundle for an encoder, with a fusion of that embedding width."""
    from model.encoder import EncoderSpec
    from model.fusion import build_fusion

    dims = DIMS.model_copy(update={"embedding": width})
    bundle = make_bundle("concat", encoder=EncoderSpec.model_validate(encoder), patches=patches)
    settings = bundle.manifest.settings
    member = replace(bundle.members[0], fusion=build_fusion("concat", settings, dims))
    manifest = bundle.manifest.model_copy(update={"members": (member.manifest(),)})
    return Bundle(manifest, (member,), MAPPING)


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
        "expected a safetensors file, found ",
    ),
    "an empty file": (lambda path: path.write_bytes(b""), "expected a safetensors file, found "),
    "a cut file": (
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        "expected a safetensors file, found ",
    ),
    "a header of a terabyte": (
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
        "expected a safetensors file, found ",
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
        "expected a manifest in JSON, found Expecting property name",
    ),
    "a manifest that is a list": (
        lambda path: write_header(path, "[1]"),
        "expected bundle format 1, found None",
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
        "manifest: mapping: Input should be 'rmst', 'median', 'kmq' or 'km_nearest'",
    ),
    "an unknown fusion": (
        lambda path: rewrite(path, lambda manifest: manifest.update(fusion="transformer")),
        "fusion: expected one of concat, pairwise, ",
    ),
    "an unknown setting": (
        lambda path: rewrite(path, lambda manifest: manifest["settings"].update(colour=1)),
        "fusion pairwise: colour: Extra inputs are not permitted",
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
        "expected the manifest's tensors, found 9, 10, 10 genes, means and sds for 10 inputs",
    ),
    "a mean less than there are genes": (
        lambda path: rewrite(
            path,
            tensors=lambda tensors: tensors.update({"member.1.rna.mean": torch.zeros(9).double()}),
        ),
        "expected the manifest's tensors, found 10, 9, 10 genes, means and sds for 10 inputs",
    ),
    "a clinical column less than the model has": (
        lambda path: rewrite(path, lambda manifest: first_member(manifest)["clinical"].update(numbers=[])),
        "expected the manifest's tensors, found 2 clinical columns for 4 inputs",
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


# --- members --------------------------------------------------------------------------------------


class Constant(Fusion):
    """Answers the first clinical column, times two."""

    Config = FusionConfig

    def forward(self, batch: Batch) -> torch.Tensor:
        return 2 * batch.clinical[:, :1]


def test_a_members_risk_is_a_z_score() -> None:
    member = Member(Constant(FusionConfig(), DIMS), None, None, risk_mean=3.0, risk_sd=0.5)
    cases = [CaseInputs(clinical=torch.tensor([value, 9.0, 9.0, 9.0])) for value in (1.0, 4.0)]
    # (2 · 1 - 3) / 0.5 and (2 · 4 - 3) / 0.5
    assert member.risk(collate(cases, DIMS)).tolist() == [-2.0, 10.0]


def test_the_ensemble_averages_z_scores() -> None:
    bundle = make_bundle("concat")
    members = tuple(
        Member(Constant(FusionConfig(), DIMS), RNA, CLINICAL, risk_mean=mean, risk_sd=sd)
        for mean, sd in [(0.0, 1.0), (1.0, 4.0), (-1.0, 0.5)]
    )
    predictor = Predictor(replace(bundle, members=members), weights_dirs=(), device=CPU)
    age = (72 - 70) / 9
    expected = np.mean([2 * age, (2 * age - 1) / 4, (2 * age + 1) / 0.5])
    risk = predictor.risk(a_case(), a_bag(), warn=lambda _: None)
    assert risk == pytest.approx(expected, rel=1e-6)


# --- the manifest on the command line -------------------------------------------------------------


def print_manifest(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model.bundle", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_manifest_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "bundle.safetensors"
    bundle = make_bundle("concat")
    bundle.save(path)
    done = print_manifest(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert Manifest.model_validate_json(done.stdout) == bundle.manifest
    assert json.loads(done.stdout)["provenance"]["metrics"] == {"c_index": 0.625}


def test_printing_what_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    done = print_manifest(tmp_path / "none.safetensors")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{tmp_path}/none.safetensors: expected a bundle, found no file\n"
