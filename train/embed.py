"""Every case of a cohort gets a bag on disk, by one process or by several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

import model
import train
from model.bags import BagMaker, SlideEmbedder, bag_path, update_bag
from model.case import Case
from model.cohort_local import local_workers
from model.cohort_scorer import Result
from model.cohort_workers import Workforce, do_all
from model.devices import open_device
from model.encoder import Encoder, load_encoder
from model.encoders import EncoderSpec
from model.errors import CaseError, ConfigError, TriSurvError, Warn, about_case, about_folder
from model.files import remove_parts
from model.foreign_bags import ForeignBags, check_slide_names
from model.fusion.base import FusionConfig
from model.messages import failures
from model.patches import PatchSpec
from model.progress import Progress
from train import ranks
from train.cohort import LabelledCase
from train.config import TrainConfig
from train.dataset import Bags


def make_bags(
    config: TrainConfig, cases: Sequence[LabelledCase], *, warn: Warn, progress: Progress
) -> Bags:
    """Make the bags that are not there yet and return the cohort's.

    Raises:
        ConfigError: Cases failed, the encoder cannot be loaded, or the folder of foreign bags is
            not there or has one bag for two slides.
    """
    directory = config.cohort.bag_dir
    spec = config.encoder.spec()
    if "slide" not in config.fusion.read().modalities:
        return Bags(directory, spec, config.patches)
    maker: BagMaker
    remove_parts(directory)
    mine = ranks.share([labelled.case for labelled in cases])
    if config.cohort.foreign_bags is not None:
        if not config.cohort.foreign_bags.is_dir():
            # Bags that were made from another folder would be taken for those of this one.
            raise ConfigError(
                "cohort.foreign_bags: expected a folder, found none at "
                f"{config.cohort.foreign_bags}"
            )
        slides = (slide.path for labelled in cases for slide in labelled.case.slides)
        check_slide_names(config.cohort.foreign_bags, slides)
        maker = ForeignBags(config.cohort.foreign_bags, spec, config.patches)
        embed_cohort(mine, maker, directory, warn=warn, progress=progress)
    else:
        maker = _slide_embedder(config, spec)
        if maker.network.notice:
            warn(maker.network.notice)
        if config.embed.ray is None and config.embed.workers in {None, 1}:
            embed_cohort(mine, maker, directory, warn=warn, progress=progress)
        else:
            work = CaseEmbedder(
                maker.encoder, config.encoder.weights, config.patches, maker.settings, directory
            )
            embed_in_parallel(mine, work, _workforce(config), warn=warn, progress=progress)
    ranks.wait_for_all()
    return Bags(directory, maker.encoder, config.patches)


def embed_cohort(
    cases: Sequence[Case], maker: BagMaker, directory: Path, *, warn: Warn, progress: Progress
) -> None:
    """Make the bags that are not there yet, or whose sources have changed since.

    A case that fails does not stop the others.

    Raises:
        ConfigError: Cases failed, or the folder cannot be written or holds bags of another encoder
            or patch spec.
    """
    with about_folder(directory):
        directory.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    for index, case in enumerate(cases):
        try:
            with about_case(case.case_id):
                update_bag(bag_path(directory, case.case_id), case, maker, warn=warn)
        except CaseError as error:
            warn(str(error))
            failed[case.case_id] = str(error)
        progress(index + 1, len(cases))
    _check_all_done(failed, len(cases))


@dataclass(frozen=True)
class CaseEmbedder:
    """Makes the bags of slides in the process that it is sent to; a worker's `Work`.

    Attributes:
        encoder: What the embeddings are made with.
        weights_dirs: Folders that may hold its weights, in order.
        patches: What the patches are.
        settings: Of the fusion that takes the bags.
        directory: Where the bags go.
        device: Where the encoder runs.
        threads: Of torch.
    """

    encoder: EncoderSpec
    weights_dirs: tuple[Path, ...]
    patches: PatchSpec
    settings: FusionConfig
    directory: Path
    device: str = "cpu"
    threads: int = 1

    def on(self, device: str, threads: int) -> "CaseEmbedder":
        """Return the same work for a device and so many of torch's threads."""
        return replace(self, device=device, threads=threads)

    def load(self) -> str | None:
        """Load the encoder, and return why it cannot be."""
        try:
            self._maker()
        except TriSurvError as error:
            return str(error)
        return None

    def do(self, task: Case) -> Result:
        """Make a case's bag, unless it is there."""
        warnings: list[str] = []
        error = ""
        try:
            with about_case(task.case_id):
                path = bag_path(self.directory, task.case_id)
                update_bag(path, task, self._maker(), warn=warnings.append)
        except TriSurvError as problem:
            error = str(problem)
        return Result(case_id=task.case_id, error=error, warnings=tuple(warnings))

    def _maker(self) -> SlideEmbedder:
        spec = self.encoder.model_dump_json()
        encoder = _load(spec, self.weights_dirs, self.device, self.threads)
        return SlideEmbedder(encoder, self.patches, self.settings)


def embed_in_parallel(
    cases: Sequence[Case],
    embedder: CaseEmbedder,
    workforce: Workforce,
    *,
    warn: Warn,
    progress: Progress,
) -> None:
    """Do what `embed_cohort` does with the slides, on several workers.

    Raises:
        ConfigError: Cases failed, or the workers cannot load the encoder.
    """
    with about_folder(embedder.directory):
        embedder.directory.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    results = do_all(cases, lambda case: case, embedder, workforce)
    for index, (case, result) in enumerate(results):
        for line in (*result.warnings, result.error):
            if line:
                warn(line)
        if result.error:
            failed[case.case_id] = result.error
        progress(index + 1, len(cases))
    _check_all_done(failed, len(cases))


@lru_cache(maxsize=1)
def _load(spec: str, weights_dirs: tuple[Path, ...], device: str, threads: int) -> Encoder:
    """Load the encoder of a spec (JSON, as specs have no hash), once in a process."""
    torch.set_num_threads(threads)
    return load_encoder(
        EncoderSpec.model_validate_json(spec),
        weights_dirs=weights_dirs,
        device=open_device(device),
    )


def _check_all_done(failed: Mapping[str, str], total: int) -> None:
    """Refuse to go on without the bags of cases that failed, each for a reason."""
    if failed:
        raise ConfigError(
            f"expected a bag of each case, but {len(failed)} of {total} failed: {failures(failed)}"
        )


def _slide_embedder(config: TrainConfig, spec: EncoderSpec) -> SlideEmbedder:
    device = ranks.device(config.device)
    encoder = load_encoder(spec, weights_dirs=config.encoder.weights, device=device)
    return SlideEmbedder(encoder, config.patches, config.fusion.read())


def _workforce(config: TrainConfig) -> Workforce:
    """Return the workers that make the bags; of several processes, each has those of its card."""
    if config.embed.ray is None:
        shared = config.device if ranks.world_size() == 1 else str(ranks.device(config.device))
        return local_workers(config.embed.workers, device=shared)
    from model.cohort_ray import ray_workers  # noqa: PLC0415 - an optional package

    return ray_workers(
        config.embed.ray, config.embed.workers, device=config.device, packages=(model, train)
    )
