"""What a training run is told: one TOML, with `key=value` overrides from the command line."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from model.encoders import ENCODERS, EncoderSpec, Precision
from model.errors import ConfigError, first_problem
from model.fusion import FusionConfig, read_settings
from model.patches import PatchSpec
from model.rna import Scale
from model.rows import SUFFIXES
from model.settings import Settings
from model.survival import MappingKind

INTERFACES = Path(__file__).resolve().parent.parent / "resources" / "interfaces"

Model = TypeVar("Model", bound=BaseModel)
LEAST_BATCH = 16
"""Cases that a step of Cox's loss needs, for its events to be compared with some others."""
FitPrecision = Literal["float32", "bfloat16"]
"""Without float16, in which gradients vanish."""


def _read_path(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value).strip():  # which would be the current folder
        raise ValueError("expected a path, found nothing")
    try:
        return Path(value).expanduser()
    except RuntimeError:  # nobody of that name: like a shell, take it as it stands
        return value


UserPath = Annotated[Path, BeforeValidator(_read_path)]
"""A path as a user writes it: no shell has put the home folder in place of ~."""


class CohortConfig(Settings):
    """Where the cases lie.

    Attributes:
        root: A folder in the CHIMERA download's layout, or a manifest (CSV, Parquet).
        rna_table: Expression of a manifest's cases, where they have no file each.
        clinical_table: Likewise their clinical records.
        time_unit: Of the times; the interface's own when None.
        bags: Where embeddings are kept; beside the data when None.
        foreign_bags: Embeddings by another program, taken in place of the slides.
    """

    root: UserPath
    interface: str = "chimera_task3"
    rna_table: UserPath | None = None
    clinical_table: UserPath | None = None
    time_unit: Literal["days", "months", "years"] | None = None
    bags: UserPath | None = None
    foreign_bags: UserPath | None = None

    @property
    def bag_dir(self) -> Path:
        """The folder of the bags."""
        beside = self.root.parent if self.root.suffix.lower() in SUFFIXES else self.root
        return self.bags if self.bags is not None else beside / "bags"


class EncoderConfig(Settings):
    """Which encoder, the folders that may hold its weights, and the precision it runs in.

    Bags and bundle record the precision; bfloat16 is twice as fast where a processor has it.
    """

    id: str = "efficientnet_lite0"
    precision: Precision = "float32"
    weights: tuple[UserPath, ...] = (Path("resources/encoders"),)

    def spec(self) -> EncoderSpec:
        """Return the encoder's spec, in the precision of the run.

        Raises:
            ConfigError: No encoder has this name.
        """
        if self.id not in ENCODERS:
            known = ", ".join(ENCODERS)
            raise ConfigError(f"encoder: expected one of {known}, found {self.id!r}")
        return ENCODERS[self.id].model_copy(update={"precision": self.precision})


class EmbedConfig(Settings):
    """Who makes the bags: so many processes of this machine, or a Ray cluster at an address.

    Without a number it is this process alone, or as many as the cluster has room for.
    """

    workers: int | None = Field(default=None, gt=0)
    ray: str | None = None


class RnaConfig(Settings):
    """Which genes are used, and how.

    Attributes:
        panel: A file with one gene symbol a line; the genes of `gene_sets`, or all, when None.
        top_variance: Keeps so many of them with the largest variance inside the fold.
        gene_sets: A GMT or CSV file of gene sets, for the fusions that work on them.
        min_genes_per_set: A set of which fewer genes are used is left out.
    """

    scale: Scale = "log"
    panel: UserPath | None = None
    gene_sets: UserPath | None = None
    min_genes_per_set: int = Field(default=1, gt=0)
    top_variance: int | None = Field(default=None, gt=0)
    max_missing: float = Field(default=0.01, ge=0, lt=1)


class ClinicalTextConfig(Settings):
    """What reads the sentences on the clinical record, for the fusions that are told in words.

    Attributes:
        encoder: "minilm", a small general one that comes as a package, or "conch", pathology's.
        weights: CONCH's file, which its authors give out; a folder in place of minilm's package.
    """

    encoder: Literal["minilm", "conch"] = "minilm"
    weights: UserPath | None = None


class FusionChoice(Settings):
    """A name of the registry and its settings."""

    name: str = "pairwise"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "FusionChoice":
        try:
            self.read()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def read(self) -> FusionConfig:
        """Return the settings as the fusion has them, with its defaults."""
        return read_settings(self.name, self.settings)


class FitConfig(Settings):
    """The optimiser, AdamW, and what a step sees.

    Whatever a fusion's paper does, an epoch has each case once (the code that most of them share
    draws kinds of cases equally often, some of them twice), and the rate falls as `schedule` says.

    Attributes:
        epochs: The most; the number used is chosen on inner folds when `inner_folds` > 1.
        batch_cases: Cases of one optimiser step's risk set; the whole training fold when None.
        chunk_patches: Padded patches that are in memory at once; sets how a step is cut up.
        max_patches: Patches drawn anew from each bag in each epoch; all when None.
        schedule: "cosine" lets the rate fall to 0 over `epochs`, "constant" keeps it.
        clip_norm: Most length of a step's gradient.
        precision: Of the training step's matrix products; scoring is always in float32.
        loss: "cox", or "nll", the discrete-time likelihood over `bins` of equally many events.
        alpha: How much less a censored case counts in "nll", 0 to 1.
        modality_dropout: Probability of dropping each optional modality of a case in an epoch.
    """

    epochs: int = Field(default=100, gt=0)
    inner_folds: int = Field(default=4, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    clip_norm: float = Field(default=1.0, gt=0)
    batch_cases: int | None = Field(default=None, ge=LEAST_BATCH)
    chunk_patches: int = Field(default=45056, gt=0)
    max_patches: int | None = Field(default=None, gt=0)
    modality_dropout: float = Field(default=0.2, ge=0, lt=1)
    precision: FitPrecision = "float32"
    loss: Literal["cox", "nll"] = "cox"
    ties: Literal["efron", "breslow"] = "efron"
    bins: int = Field(default=8, ge=2)
    alpha: float = Field(default=0.0, ge=0, le=1)

    @property
    def outputs(self) -> int:
        """Width T of the logits."""
        return 1 if self.loss == "cox" else self.bins


class ChosenEpochsConfig(FitConfig):
    """A fit whose number of epochs inner folds choose."""

    inner_folds: int = Field(default=4, ge=2)


class FoldsConfig(Settings):
    """The outer folds; a patient is never in two.

    Attributes:
        by: "stratified" by event and centre, "file" for published folds, "centre" to leave one
            centre out at a time.
        count: Number of stratified folds.
        file: CSV or Parquet with the columns case_id and fold.
        repeats: How often everything is done, with new seeds and new stratified folds.
    """

    by: Literal["stratified", "file", "centre"] = "stratified"
    count: int = Field(default=5, ge=2)
    file: UserPath | None = None
    repeats: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _file_is_read(self) -> "FoldsConfig":
        if (self.by == "file") != (self.file is not None):
            raise ValueError('by = "file" and file = PATH go together')
        return self


class TrainConfig(Settings):
    """A whole run.

    `members` says what the bundle holds: the folds' models, or one refitted on all cases.
    """

    output: UserPath
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"
    notice: str = "research software, not for clinical use"
    cohort: CohortConfig
    encoder: EncoderConfig = EncoderConfig()
    patches: PatchSpec = PatchSpec()
    embed: EmbedConfig = EmbedConfig()
    rna: RnaConfig = RnaConfig()
    clinical_text: ClinicalTextConfig = ClinicalTextConfig()
    fusion: FusionChoice = FusionChoice()
    fit: FitConfig = FitConfig()
    folds: FoldsConfig = FoldsConfig()
    members: Literal["folds", "refit"] = "folds"
    mapping: MappingKind = "rmst"


def read_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a training run's TOML; as `read_toml`."""
    return read_toml(TrainConfig, path, overrides)


def read_toml(kind: type[Model], path: Path, overrides: Sequence[str] = ()) -> Model:
    """Read a TOML and apply `section.key=value` overrides (values in TOML's syntax).

    Raises:
        ConfigError: The file or an override is not valid.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable TOML, found: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: expected valid TOML, found: {error}") from error
    return validate(kind, content, overrides, source=str(path))


def validate(
    kind: type[Model], content: dict[str, Any], overrides: Sequence[str], *, source: str
) -> Model:
    """Apply overrides to a config's content and check it.

    Raises:
        ConfigError: A field or an override is not valid.
    """
    for override in overrides:
        _apply(content, override)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: {first_problem(error)}") from error


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the nested content."""
    name, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r}: expected key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word, such as a path
    *sections, key = name.strip().split(".")
    target: Mapping[str, Any] = content
    for section in sections:
        target = target.setdefault(section, {}) if isinstance(target, dict) else {}
    if not isinstance(target, dict):
        raise ConfigError(f"override {override!r}: {'.'.join(sections)} is not a section")
    target[key] = value
