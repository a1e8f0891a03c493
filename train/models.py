"""What there is to choose from: every fusion as its config trains it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.batch import Dims
from model.encoders import ENCODERS
from model.fusion import FUSIONS, build_fusion
from train.config import CohortConfig, FitConfig, FusionChoice, TrainConfig, read_config

CONFIGS = Path(__file__).resolve().parent / "configs"
GENES = 19_359
CLINICAL_COLUMNS = 27
CLINICAL_SENTENCES = 13
SENTENCE_WIDTHS = {"minilm": 384, "conch": 512}


@dataclass(frozen=True)
class SetSizes:
    """The size of a published collection of gene sets; `members` counts a gene once a set."""

    sets: int
    genes: int
    members: int

    def make(self) -> dict[str, tuple[int, ...]]:
        """Make up sets of this size."""
        positions = [member % self.genes for member in range(self.members)]
        return {str(part): tuple(positions[part :: self.sets]) for part in range(self.sets)}


PATHWAYS = SetSizes(331, 4_999, 9_745)
COLLECTIONS = {
    "pathways": PATHWAYS,
    "hallmarks": SetSizes(50, 4_241, 7_110),
    "families": SetSizes(6, 3_047, 3_354),
}
"""By the name of the file in a config: SurvPath's pathways, the Hallmarks among them, and MCAT's
functional families."""


def describe_models() -> str:
    """Return one paragraph a fusion: modalities, loss, parameters, paper, licence of its code.

    Parameters are counted at the config's own widths, on CHIMERA Task 3's genes and columns. The
    user's gene sets are not there to be counted with: made up sets of the paper's size are.
    """
    return "\n\n".join(_describe(name) for name in FUSIONS)


def read_model_config(name: str) -> TrainConfig:
    """Read a fusion's own config; one that has none is trained at all defaults."""
    path = CONFIGS / f"{name}.toml"
    if path.is_file():
        return read_config(path)
    return TrainConfig(
        output=Path("runs") / name,
        cohort=CohortConfig(root=Path("task3")),
        fusion=FusionChoice(name=name),
    )


def _describe(name: str) -> str:
    config = read_model_config(name)
    settings = config.fusion.read()
    modalities = ", ".join(settings.modalities)
    if settings.optional:
        modalities += f" (may be absent: {', '.join(settings.optional)})"
    facts = {
        "modalities": modalities,
        "loss": _loss(config.fit),
        "parameters": _parameters(config),
        "paper": FUSIONS[name].PAPER,
        "their code": FUSIONS[name].CODE,
    }
    return "\n".join([name, *(f"  {label:<12}{fact}" for label, fact in facts.items())])


def _loss(fit: FitConfig) -> str:
    if fit.loss == "cox":
        return "Cox's partial likelihood"
    return f"discrete-time likelihood, {fit.bins} bins"


def _parameters(config: TrainConfig) -> str:
    """Return how many parameters a model has, and at which widths of its inputs."""
    dims = _dims(config)
    with torch.device("meta"):
        fusion = build_fusion(config.fusion.name, config.fusion.settings, dims)
    count = sum(parameter.numel() for parameter in fusion.parameters())
    sets = dims.gene_sets.values()
    sentences, width = dims.clinical_tokens
    widths = {
        f"embeddings {dims.embedding:,} wide": dims.embedding,
        f"{dims.genes:,} genes": dims.genes,
        f"{len(sets)} gene sets with {sum(map(len, sets)):,} members": len(sets),
        f"{dims.clinical} clinical columns": dims.clinical,
        f"{sentences} clinical sentences {width} wide": sentences,
    }
    return f"{count:,} ({', '.join(text for text, width in widths.items() if width)})"


def _dims(config: TrainConfig) -> Dims:
    """Return the widths at which a config's model is counted."""
    used = config.fusion.read().modalities
    reads_text = FUSIONS[config.fusion.name].READS_TEXT and "clinical" in used
    file = config.rna.gene_sets
    sets = COLLECTIONS.get(file.name.split(".")[0], PATHWAYS) if file else None
    genes = sets.genes if sets else config.rna.top_variance or GENES
    return Dims(
        embedding=ENCODERS[config.encoder.id].width if "slide" in used else 0,
        genes=genes if "rna" in used else 0,
        clinical=CLINICAL_COLUMNS if "clinical" in used and not reads_text else 0,
        outputs=config.fit.outputs,
        gene_sets=sets.make() if sets else {},
        clinical_tokens=(CLINICAL_SENTENCES, SENTENCE_WIDTHS[config.clinical_text.encoder])
        if reads_text
        else (0, 0),
    )
