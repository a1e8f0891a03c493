"""What there is to choose from: every fusion as its config trains it."""

from pathlib import Path

import torch

from model.batch import Dims
from model.encoder import ENCODERS
from model.fusion import FUSIONS, build_fusion, read_settings
from train.config import FitConfig, TrainConfig, read_config

CONFIGS = Path(__file__).resolve().parent / "configs"
GENES = 19_359
CLINICAL_COLUMNS = 27


def describe_models() -> str:
    """Return one paragraph a fusion: modalities, loss, parameters, paper, licence of its code.

    Parameters are counted at the config's own widths, on CHIMERA Task 3's genes and columns.
    """
    return "\n\n".join(_describe(name) for name in FUSIONS)


def _describe(name: str) -> str:
    config = read_config(CONFIGS / f"{name}.toml")
    settings = read_settings(name, config.fusion.settings)
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
    used = read_settings(config.fusion.name, config.fusion.settings).modalities
    dims = Dims(
        embedding=ENCODERS[config.encoder.id].width if "slide" in used else 0,
        genes=(config.rna.top_variance or GENES) if "rna" in used else 0,
        clinical=CLINICAL_COLUMNS if "clinical" in used else 0,
        outputs=config.fit.outputs,
    )
    with torch.device("meta"):
        fusion = build_fusion(config.fusion.name, config.fusion.settings, dims)
    count = sum(parameter.numel() for parameter in fusion.parameters())
    widths = {
        f"embeddings {dims.embedding:,} wide": dims.embedding,
        f"{dims.genes:,} genes": dims.genes,
        f"{dims.clinical} clinical columns": dims.clinical,
    }
    return f"{count:,} ({', '.join(text for text, width in widths.items() if width)})"
