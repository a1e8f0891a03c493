"""Case → bag → risk → time: the main path, read this first."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import Bag, CaseInputs
from model.bundle import Bundle
from model.case import Case, Prediction
from model.embedding import embed_patches
from model.encoder import Encoder, load_encoder
from model.errors import CaseError, NoTissueError, Warn, about_case
from model.fusion.base import FusionConfig
from model.interface import MONTHS_PER
from model.messages import merge_messages
from model.patches import PatchSpec, is_blank, patch_grid, read_patches
from model.progress import Progress
from model.slide import Slide, is_placeholder
from model.stages import stage
from model.tissue_mask import find_tissue

SURVIVAL_MONTHS = (12, 24, 36, 60)
INTERVAL = 0.8
CPU_BATCH_PATCHES = 8
"""Most in a batch; more leave the caches, and each takes longer."""
GPU_BATCH_PATCHES = 64
"""Not measured."""

Done = TypeVar("Done")
Look = Callable[[Case, Bag | None, Warn], None]
"""Takes a scored case, the bag that its risk came from, and where to put warnings."""


class Predictor:
    """Scores cases with one bundle; its encoder is loaded when asked for, or when first needed.

    Args:
        bundle: The fitted model.
        weights_dirs: Folders that may hold the encoder's weights, in order.
        device: Where encoder and fusion run.
    """

    def __init__(
        self, bundle: Bundle, *, weights_dirs: Sequence[Path], device: torch.device
    ) -> None:
        self.bundle = bundle
        self.device = device
        self.encoder: Encoder | None = None
        self._weights_dirs = weights_dirs
        for member in bundle.members:
            member.fusion.to(device)

    @property
    def settings(self) -> FusionConfig:
        """What the fusion was told: which modalities it uses, and which it can do without."""
        return self.bundle.members[0].fusion.config

    def predict(self, case: Case, *, progress: Progress, look: Look | None = None) -> Prediction:
        """Score one case, and have a look at what its risk came from.

        Raises:
            CaseError: The case lacks what the bundle needs, or a file of it cannot be used.
        """
        warnings: list[str] = [self.bundle.manifest.notice] if self.bundle.manifest.notice else []
        with about_case(case.case_id):
            self.check_modalities(case, has_slide=True)  # a record's absence shows at no cost
            bag = self.embed(case, warn=warnings.append, progress=progress)
            modalities = self.check_modalities(case, has_slide=bag is not None)
            with stage("fuse"):
                risk = self.risk(case, bag, warn=warnings.append)
            if look is not None:
                look(case, bag, warnings.append)
        mapping, unit = self.bundle.mapping, self.bundle.manifest.task.unit
        at = {months: months / MONTHS_PER[unit] for months in SURVIVAL_MONTHS}
        within = {months: time for months, time in at.items() if time <= mapping.tau}
        survival = mapping.survival(np.array([risk]), list(within.values()))[0]
        low, high = mapping.interval(np.array([risk]), INTERVAL)[0]
        median = float(mapping.interval(np.array([risk]), 0.0)[0, 0])
        return Prediction(
            case_id=case.case_id,
            risk=risk,
            time=float(mapping.time(np.array([risk]))[0]),
            unit=unit,
            survival=dict(zip(within, survival.tolist(), strict=True)),
            median=median if median < mapping.tau else None,
            interval=(float(low), float(high)),
            modalities=modalities,
            warnings=tuple(dict.fromkeys(warnings)),
        )

    def load_encoder(self) -> None:
        """Load the encoder, unless it is loaded or the bundle uses no slides.

        Raises:
            BundleError: Its weights are not there, or are others.
        """
        spec = self.bundle.manifest.encoder
        if self.encoder is None and spec is not None:
            self.encoder = load_encoder(spec, weights_dirs=self._weights_dirs, device=self.device)

    def embed(self, case: Case, *, warn: Warn, progress: Progress) -> Bag | None:
        """Embed a case's slides; None where it has none of use, or the bundle uses none.

        Raises:
            CaseError: As `embed_case`.
            BundleError: As `load_encoder`.
        """
        self.load_encoder()
        patches = self.bundle.manifest.patches
        if self.encoder is None or patches is None:
            return None
        if self.encoder.notice:
            warn(self.encoder.notice)
        return embed_case(case, self.encoder, patches, self.settings, warn=warn, progress=progress)

    def risk(self, case: Case, bag: Bag | None, *, warn: Warn) -> float:
        """Return the ensemble's risk: the mean of its members' z-scored risks."""
        inputs = self.inputs(case, bag, warn=warn)
        risks = [
            member.risk(member.collate([own]).to(self.device))[0]
            for member, own in zip(self.bundle.members, inputs, strict=True)
        ]
        risk = float(np.mean(risks))
        if not np.isfinite(risk):
            raise CaseError("the fused inputs", expected="a finite risk", found=risk)
        return risk

    def inputs(self, case: Case, bag: Bag | None, *, warn: Warn) -> list[CaseInputs]:
        """Turn a case and its bag into each member's tensors, with a warning of what is odd.

        Raises:
            CaseError: The RNA record lacks too many genes.
        """
        clinical, embeddings = self.bundle.manifest.clinical_range, self.bundle.embedding_range
        if clinical is not None and case.clinical is not None:
            clinical.check(case.clinical, warn=warn)
        if embeddings is not None and bag is not None:
            embeddings.check(bag.embeddings, warn=warn)
        said: list[str] = []
        inputs = [member.inputs(case, bag, warn=said.append) for member in self.bundle.members]
        # Members say the same with numbers of their own; the user reads it once.
        for line in merge_messages(said):
            warn(line)
        return inputs

    def check_modalities(self, case: Case, *, has_slide: bool) -> tuple[str, ...]:
        """Return the modalities that are there and used.

        Raises:
            CaseError: One that is needed is absent, or all are.
        """
        config = self.settings
        found = {
            "slide": has_slide,
            "rna": case.rna is not None,
            "clinical": case.clinical is not None,
        }
        used = tuple(name for name in config.modalities if found[name])
        for name in config.modalities:
            if name not in used and name not in config.optional:
                raise CaseError(
                    name,
                    expected="the modality (the bundle was not trained to do without it)",
                    found="none",
                )
        if not used:
            raise CaseError(
                "inputs", expected=f"one of {', '.join(config.modalities)}", found="none"
            )
        return used


def embed_case(
    case: Case,
    encoder: Encoder,
    patches: PatchSpec,
    settings: FusionConfig,
    *,
    warn: Warn,
    progress: Progress,
) -> Bag | None:
    """Embed the tissue of all slides of a case; None where it has no slide of use.

    Raises:
        CaseError: A slide cannot be read, or none has tissue and the case needs one.
    """

    def embed(index: int) -> Bag:
        return _embed_slide(case, index, encoder, patches, warn=warn, progress=progress)

    bags = use_slides(case, settings, embed, warn=warn)
    return Bag.join(bags) if bags else None


def use_slides(
    case: Case, settings: FusionConfig, use: Callable[[int], Done], *, warn: Warn
) -> list[Done]:
    """Use each slide of a case by its index, and return what came of those with tissue.

    One without is left out, with a warning: a case of several slides keeps the others, and a case
    that can do without slides is one without.

    Raises:
        NoTissueError: No slide has tissue, and the case cannot be scored by anything else.
    """
    done, empty = [], []
    for index, slide in enumerate(case.slides):
        if is_placeholder(slide.path):
            continue
        try:
            done.append(use(index))
        except NoTissueError as problem:
            empty.append(problem)
    others = {"rna": case.rna, "clinical": case.clinical}
    is_enough = any(others.get(name) is not None for name in settings.modalities)
    if empty and not done and not ("slide" in settings.optional and is_enough):
        raise empty[0]
    for error in empty:
        warn(f"{error}; the slide is left out")
    return done


def _embed_slide(
    case: Case,
    index: int,
    encoder: Encoder,
    patches: PatchSpec,
    *,
    warn: Warn,
    progress: Progress,
) -> Bag:
    file = case.slides[index]
    with Slide.open(file.path, default_mpp=case.default_mpp, warn=warn) as slide:
        with stage("tissue"):
            mask = find_tissue(slide, file.mask, warn=warn)
            coords = patch_grid(slide, mask, patches)
        blank: list[bool] = []

        def read(part: NDArray[np.int64]) -> Generator[NDArray[np.uint8], None, None]:
            for patch in read_patches(slide, part, patches):
                blank.append(is_blank(patch))
                yield patch

        embeddings = embed_patches(
            encoder,
            read,
            coords,
            batch_size=CPU_BATCH_PATCHES if encoder.device.type == "cpu" else GPU_BATCH_PATCHES,
            progress=progress,
        )
    _check_colours(file.path, blank, warn=warn)
    if not embeddings.isfinite().all():
        found = f"others from encoder {encoder.spec.id} in {encoder.precision}"
        raise CaseError(file.path, expected="finite embeddings", found=found)
    return Bag(
        embeddings=embeddings,
        coords=torch.from_numpy(coords),
        slide_index=torch.full((len(coords),), index),
    )


def _check_colours(path: Path, blank: Sequence[bool], *, warn: Warn) -> None:
    """Tell of patches of one colour, `blank`: a mask may have tissue where the slide has no pixels.

    Raises:
        NoTissueError: All patches are.
    """
    if all(blank):
        raise NoTissueError(path, expected="tissue", found="patches of one colour alone")
    if any(blank):
        found = f"{sum(blank)} of {len(blank)} patches are of one colour"
        warn(f"{path}: {found}, as where a slide has no pixels")
