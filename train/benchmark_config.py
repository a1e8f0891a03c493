"""What a benchmark is told: the tables, and the models that are fitted to them."""

from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator

from model.batch import MODALITIES, Modality
from model.settings import Settings
from train.baselines import build_baselines
from train.benchmark_oracle import OracleConfig
from train.config import ChosenEpochsConfig, FusionChoice, UserPath
from train.kept import check_labels
from train.tables import SCHEMA, Endpoint, Source


class CohortTable(Settings):
    """A public cohort: whose tables and folds, and what each patient must have."""

    source: Source
    study: str
    modalities: tuple[Modality, ...]
    endpoint: Endpoint = "dss"

    @property
    def name(self) -> str:
        """The cohort in a word."""
        return "-".join((self.source, self.study, self.endpoint, *self.modalities))


NAMES = {"slide": "histology", "rna": "RNA", "clinical": "clinical"}


def title(cohort: CohortTable) -> str:
    """Return the cohort's name as a reader knows it."""
    seen = " + ".join(NAMES[name] for name in cohort.modalities)
    endpoint = "" if cohort.endpoint == "dss" else f", {cohort.endpoint.upper()}"
    return f"{cohort.study.upper()}, {seen}{endpoint}"


class DeepModel(FusionChoice):
    """A fusion of the registry and its settings.

    `modalities` are those of the cohort when empty; a cohort that lacks one is left out.
    `baseline` models count as something that a fusion has to beat. With `components` a model sees
    RNA and histology as so many principal components each. `gene_sets` names the file of those that
    group genes.
    """

    label: str
    gene_sets: UserPath | None = None
    components: int | None = Field(default=None, gt=0)
    modalities: tuple[Modality, ...] = ()
    baseline: bool = False


class BenchmarkConfig(Settings):
    """A benchmark.

    Attributes:
        data: The folder with the public tables.
        output: Where risks are kept; what is there is not computed again.
        results: The page to write.
        caveats: What a reader has to know first; they open the page.
        seeds: Of the deep models; the baselines have none, or one.
        workers: Cohorts at once, each in a process.
        histology_groups: Whether a slide's features make one row a natural group of features, so
            that there is something to attend to, or one row in all.
        oracle: Fusions on simulated patients with a known risk; a part of the same page.
        learning_rates: The deep models choose among them, on inner folds and with the first seed,
            in place of `fit`'s own.
    """

    data: UserPath
    output: UserPath
    results: UserPath
    caveats: tuple[str, ...] = ()
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    resamples: int = Field(default=1000, gt=0)
    workers: int = Field(default=1, gt=0)
    histology_groups: bool = False
    learning_rates: tuple[PositiveFloat, ...] = Field(min_length=1)
    fit: ChosenEpochsConfig
    cohorts: tuple[CohortTable, ...] = Field(min_length=1)
    models: tuple[DeepModel, ...]
    oracle: OracleConfig | None = None

    @field_validator("models")
    @classmethod
    def _labels(cls, models: tuple[DeepModel, ...]) -> tuple[DeepModel, ...]:
        check_labels([*build_baselines(MODALITIES, SCHEMA), *(model.label for model in models)])
        return models

    @field_validator("cohorts")
    @classmethod
    def _names(cls, cohorts: tuple[CohortTable, ...]) -> tuple[CohortTable, ...]:
        check_labels([cohort.name for cohort in cohorts])
        return cohorts
