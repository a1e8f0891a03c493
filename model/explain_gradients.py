"""How much each input of a member moved its risk away from that of a reference patient."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import IntegratedGradients  # type: ignore[import-untyped]

from model.batch import Batch, Modality
from model.member import Member
from model.survival import risk

REFERENCE = (
    "every gene and clinical number at the mean of the training patients, no category known, and "
    "patches, or sentences of the clinical record, whose embeddings are all zero"
)
TOLERANCE = 0.01
"""Standard deviations of the training risk by which contributions may miss their sum."""
STEPS = (16, 32, 64, 128, 256)
PATCHES_AT_ONCE = 8192

VECTORS: Mapping[Modality, str] = {"slide": "bag"}
VECTORS_OF_TEXT: Mapping[Modality, str] = {**VECTORS, "clinical": "clinical_tokens"}
"""Which tensors of a batch hold a vector for each patch or sentence."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Attribution:
    """One member's risk, taken apart; in standard deviations of its training risk.

    Attributes:
        risk: Of the case.
        reference: Risk of the reference patient.
        parts: Modality → contribution of each patch (N,), gene (G,) and clinical entry (C,), or
            sentence (S,) where the member reads text.
        steps: At which the gradient was evaluated.
    """

    risk: float
    reference: float
    parts: Mapping[Modality, Array]
    steps: int

    @property
    def error(self) -> float:
        """By how much the contributions exceed the difference that they should sum to."""
        total = sum(part.sum() for part in self.parts.values())
        return float(total - (self.risk - self.reference))


def attribute_risk(member: Member, batch: Batch) -> Attribution:
    """Take the risk of a batch's one case apart by integrated gradients.

    Each input's contribution is (x_i - x'_i) ∫₀¹ ∂risk(x' + a (x - x')) / ∂x_i da, and x' is the
    reference patient: zeros. Those are the training means, for genes and clinical numbers were
    standardised; the bundle holds no mean embedding, so a patch or a sentence starts from the
    vector in which no feature is active. What the case lacks stays absent in the reference, too.
    The steps are doubled until the contributions sum to risk - reference, which the method promises
    in the limit.

    Source: Sundararajan, Taly and Yan 2017, "Axiomatic attribution for deep networks", equation 1.
    """
    used = [name for name in member.fusion.config.modalities if bool(batch.present(name).all())]
    vectors = VECTORS_OF_TEXT if member.fusion.READS_TEXT else VECTORS
    inputs = tuple(_full_input(batch, name, vectors) for name in used)

    def risk_at(*values: torch.Tensor) -> torch.Tensor:
        logits = member.fusion(_fill(batch, dict(zip(used, values, strict=True)), vectors))
        # Where a fusion hides an input from the gradient (clusters), that is 0 instead of an error.
        hidden = 0 * sum(value.sum(dim=1) for value in values)
        return (risk(logits) - member.risk_mean) / member.risk_sd + hidden

    with torch.no_grad():
        of_case = risk_at(*inputs).item()
        of_reference = risk_at(*map(torch.zeros_like, inputs)).item()
    method = IntegratedGradients(risk_at)
    for steps in STEPS:
        gradients = method.attribute(
            inputs,
            n_steps=steps,
            internal_batch_size=max(1, PATCHES_AT_ONCE // batch.mask.shape[1]),
        )
        parts = {
            name: gradient[0].detach().double().cpu().numpy()
            for name, gradient in zip(used, gradients, strict=True)
        }
        found = Attribution(of_case, of_reference, parts, steps)
        if abs(found.error) <= TOLERANCE:
            break
    return found


def _full_input(batch: Batch, name: Modality, vectors: Mapping[Modality, str]) -> torch.Tensor:
    """Return what is moved from zeros to the case's own: of vectors, how much of each is there.

    The path scales a vector as a whole, so the gradient with regard to that one number is the sum
    over its features, at a small part of the memory.
    """
    if name in vectors:
        own: torch.Tensor = getattr(batch, vectors[name])
        return torch.ones_like(own[..., 0])
    return batch.rna if name == "rna" else batch.clinical


def _fill(
    batch: Batch, values: Mapping[Modality, torch.Tensor], vectors: Mapping[Modality, str]
) -> Batch:
    """Return a batch of one case with that case once for each row of the values (rows, width)."""
    times = len(next(iter(values.values())))
    rows = {f.name: getattr(batch, f.name) for f in fields(batch)}
    if times > 1:
        rows = {name: row.repeat_interleave(times, dim=0) for name, row in rows.items()}
    for name, value in values.items():
        if name in vectors:
            rows[vectors[name]] = rows[vectors[name]] * value[..., None]
        else:
            rows[name] = value
    return Batch(**rows)
