"""A trained model of the second-place CHIMERA repository → a bundle with the same predictions.

`importer_files.py` reads the checkpoint's folder, `importer_models.py` turns its layers into ours.

Source: hassancpu/ChimeraChallenge2025_Task_3 (commit 46c95e4), Docker/inference.py.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from model import __version__
from model.bundle import Bundle, Manifest, Task
from model.encoders import ENCODERS, EncoderSpec
from model.errors import ConfigError, Warn
from model.files import sha256_of
from model.interface import read_interface
from model.member import Member
from model.patches import PatchSpec
from model.rna import RnaSpec
from model.survival import TimeMapping
from train.config import INTERFACES
from train.importer_files import (
    CHECKPOINT,
    CLINICAL,
    CURVE,
    GENES,
    read_clinical,
    read_genes,
    read_mapping,
    read_tensors,
)
from train.importer_models import Variant, convert, find_variant

INTERFACE = "chimera_task3"
NOTICE = "Research use only: an imported checkpoint, whose accuracy was not measured here."

# Its patches are 224 px of the pyramid's level 1, about 1 µm in this challenge's slides. It keeps
# one when any of four points, half-way from the centre to the corners, is tissue: about a quarter.
PATCHES = PatchSpec(mpp=1.0, size_px=224, stride_px=224, least_tissue=0.25)
ENCODER_OF_WIDTH = {1024: "uni", 1536: "gigapath"}


def import_checkpoint(directory: Path, *, trust_pickle: bool, warn: Warn, output: Path) -> Path:
    """Write the bundle of a checkpoint's folder and return its path.

    The same bag and records get the same risk, and the same risk the same time.

    Args:
        directory: Holds `s_0_checkpoint.pt`, `km_curve.pkl` and, where the model uses them,
            `gene_order.json` and `clinical_preprocessor.pkl`.
        trust_pickle: Whether the user trusts the pickles, which can run any code.
        warn: Told what was unpickled, and where an answer can differ from the checkpoint's own.
        output: Folder to write `bundle.safetensors` to.

    Raises:
        ConfigError: The pickles are not trusted, or a file is absent or not what it should be.
        CaseError: `gene_order.json` is not JSON.
    """
    if not trust_pickle:
        raise ConfigError(
            f"{directory}: expected --trust-pickle, as the folder's pickles can run any code when "
            "they are read; give it only for files of somebody you trust"
        )
    tensors = read_tensors(directory / CHECKPOINT)
    name, variant = find_variant(directory / CHECKPOINT, tensors)
    files = _find_files(directory, name, variant)
    pickles = ", ".join(file for file in files if file.endswith(".pkl"))
    warn(f"{directory}: unpickling {pickles}, which can run any code")
    rna = read_genes(files[GENES]) if GENES in files else None
    clinical = read_clinical(files[CLINICAL], warn=warn) if CLINICAL in files else None
    mapping = read_mapping(files[CURVE])
    member = Member(
        fusion=convert(directory, variant, tensors, rna, clinical),
        rna=rna,
        clinical=None if clinical is None else clinical.spec,
        risk_mean=0.0,  # the mapping ranks a risk among the training risks, which are raw
        risk_sd=1.0,
    )
    differences = _differences(variant, mapping)
    for difference in differences:
        warn(difference)
    provenance: dict[str, JsonValue] = {
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "imported": name,
        "files": {file: sha256_of(path) for file, path in files.items()},
        "differences": [*differences],
    }
    bundle = Bundle(_manifest(variant, member, mapping, provenance), (member,), mapping)
    target = output / "bundle.safetensors"
    bundle.save(target)
    return target


def _find_files(directory: Path, name: str, variant: Variant) -> dict[str, Path]:
    """Return the files that the model needs, by name."""
    needed = {
        CHECKPOINT: True,
        GENES: "rna" in variant.modalities,
        CLINICAL: "clinical" in variant.modalities,
        CURVE: True,
    }
    files = {file: directory / file for file, used in needed.items() if used}
    for path in files.values():
        if not path.is_file():
            raise ConfigError(f"{path}: expected a file of the {name} checkpoint, found none")
    return files


def _differences(variant: Variant, mapping: TimeMapping) -> list[str]:
    """Say what the checkpoint's time rule costs, and where answers are not the checkpoint's own."""
    times, counts = np.unique(mapping.time(mapping.risks), return_counts=True)
    most = int(counts.argmax())
    found = [
        f"{CURVE}: {counts[most]} of {len(mapping.risks)} training cases share one predicted "
        f"time, {times[most]:g} months; they have {len(times)} different ones in all",
        f"{CURVE}: which outcome belongs to which training risk is not told, so that survival "
        "curve and interval are the cohort's, the same for every case",
    ]
    if "slide" in variant.modalities:
        found.append(
            "slides: patches lie on one grid from the slide's corner; the checkpoint's own "
            "program starts one at each piece of tissue, so that its bags differ a little"
        )
    if "rna" in variant.modalities:
        found.append(
            "RNA: a missing gene counts as 0, as for the checkpoint's own program; unlike there, "
            f"a case that lacks more than {RnaSpec.max_missing:.0%} of the genes is refused"
        )
    if "clinical" in variant.modalities:
        found.append(
            "clinical: -1 is a number or a category, as for the checkpoint's own program; where "
            "that fails (no number, no such key), the training mean or no category is taken"
        )
    return found


def _manifest(
    variant: Variant, member: Member, mapping: TimeMapping, provenance: dict[str, JsonValue]
) -> Manifest:
    interface = read_interface(INTERFACE, [INTERFACES])
    return Manifest(
        notice=NOTICE,
        task=Task(
            endpoint=interface.endpoint, unit=interface.output.unit, interface=interface.name
        ),
        encoder=_find_encoder(member.fusion.dims.embedding),
        patches=PATCHES if "slide" in variant.modalities else None,
        fusion=variant.fusion,
        settings=member.fusion.config.model_dump(mode="json"),
        members=(member.manifest(),),
        mapping=mapping.kind,
        provenance=provenance,
    )


def _find_encoder(width: int) -> EncoderSpec | None:
    """Return the encoder whose embeddings have a width, None where no slide is used."""
    if width == 0:
        return None
    if width not in ENCODER_OF_WIDTH:
        known = " or ".join(f"{known} ({name})" for known, name in ENCODER_OF_WIDTH.items())
        raise ConfigError(f"{CHECKPOINT}: expected embeddings of width {known}, found {width}")
    return ENCODERS[ENCODER_OF_WIDTH[width]]
