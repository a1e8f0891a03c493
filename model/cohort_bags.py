"""A Predictor that keeps the bags of a cohort in a folder."""

from collections.abc import Sequence
from pathlib import Path

import torch

from model.bags import (
    Said,
    bag_path,
    identify_all,
    is_current,
    read_bag,
    read_stamp,
    slide_sources,
    write_bag,
)
from model.batch import Bag
from model.bundle import Bundle
from model.case import Case
from model.errors import ConfigError, Warn
from model.foreign_bags import ForeignBags
from model.predictor import Predictor
from model.progress import Progress


class BagPredictor(Predictor):
    """A Predictor that takes bags from a folder, and leaves those there that it has to make.

    The folder may hold its own bags, those of `python -m train embed`, or another program's
    (`ForeignBags`). Where all bags are there, the encoder's weights need not be.
    """

    def __init__(
        self, bundle: Bundle, *, weights_dirs: Sequence[Path], device: torch.device, directory: Path
    ) -> None:
        super().__init__(bundle, weights_dirs=weights_dirs, device=device)
        self._directory = directory

    def embed(self, case: Case, *, warn: Warn, progress: Progress) -> Bag | None:
        """Return a case's bag: the stored one, or else a new one, which is then stored.

        One that cannot be stored is warned of.

        Raises:
            CaseError: A slide or a bag of another program cannot be read.
            ConfigError: The folder's bag is of another encoder or patch spec.
            BundleError: As `load_encoder`.
        """
        bag = self.stored(case, warn=warn)
        encoder, patches = self.bundle.manifest.encoder, self.bundle.manifest.patches
        if bag is not None or not slide_sources(case) or encoder is None or patches is None:
            return bag
        said = Said(warn)
        bag = super().embed(case, warn=said, progress=progress)
        if bag is not None and self.encoder is not None:
            files = slide_sources(case)
            path = bag_path(self._directory, case.case_id)
            made_by = encoder.model_copy(update={"precision": self.encoder.precision})
            # Whoever takes the bag compares its precision with the bundle's.
            warnings = [t for t in said.without_folders(files) if t != self.encoder.notice]
            sources = identify_all(files)
            try:
                write_bag(path, bag, made_by, patches, sources=sources, warnings=warnings)
            except ConfigError as error:  # the prediction needs no file of it
                warn(f"the bag is not kept: {error}")
        return bag

    def stored(self, case: Case, *, warn: Warn) -> Bag | None:
        """Return the case's bag of the folder, None where it has none or one of other slides.

        One in another precision than the bundle's is taken, with a warning, as it would be made
        again on a device without the bundle's.

        Raises:
            CaseError: The bag of another program is damaged.
            ConfigError: The bag is of another encoder or patch spec.
        """
        encoder, patches = self.bundle.manifest.encoder, self.bundle.manifest.patches
        if encoder is None or patches is None:
            return None
        foreign = ForeignBags(self._directory, encoder, patches)
        if foreign.sources(case):
            return foreign.make(case, warn=warn)
        path = bag_path(self._directory, case.case_id)
        stamp = read_stamp(path)
        if stamp is None:
            return None
        precision = stamp.encoder.precision
        made_by = encoder.model_copy(update={"precision": precision})
        sources = identify_all(slide_sources(case))
        if not is_current(path, stamp, sources, made_by, patches, warn=warn):
            return None
        for text in stamp.warnings:
            warn(text)
        if precision != encoder.precision:
            warn(
                f"{path}: embedded in {precision}, not in the {encoder.precision} of the bundle; "
                "embeddings differ slightly"
            )
        return read_bag(path, made_by, patches)


def load_predictor(
    bundle: Bundle, weights_dirs: Sequence[Path], device: torch.device, *, bags: Path | None
) -> Predictor:
    """Return a Predictor with its encoder, or one that takes bags from a folder, if that is named.

    Raises:
        BundleError: The encoder's weights are not there, or are others.
    """
    if bags is None:
        predictor = Predictor(bundle, weights_dirs=weights_dirs, device=device)
        predictor.load_encoder()
        return predictor
    return BagPredictor(bundle, weights_dirs=weights_dirs, device=device, directory=bags)
