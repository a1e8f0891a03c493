"""A cohort with a known oracle risk, in the layout of the CHIMERA download.

Outcomes come from latent factors of histology, RNA and clinical record. The factors are only
seen through pictures, expression values and record fields, each with its own noise, and
products of factors of two modalities matter as much as the factors themselves.
"""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from model.errors import ConfigError, first_problem
from model.messages import differences
from model.progress import Progress
from model.settings import Settings
from train.simulate_records import clinical_record, rna_record
from train.simulate_slides import SlideLook, write_slide

FloatArray = npt.NDArray[np.float64]

COHORT_DIMS = (2, 2, 2)
STRETCH = 4.0
"""Puts follow-up where CHIMERA's is, up to about 200 months; it changes no rank."""
LAST_MONTH = 202
FIRST_ID = {"A": 1, "B": 301}


class SimulateConfig(Settings):
    """Settings of one simulated cohort; equal settings give equal files.

    Attributes:
        cases: Number of cases.
        seed: Of everything random.
        centre_b: Share of the cases that come from the second centre.
        interaction: Share λ of the risk's variance that products of factors carry.
        sigma: Standard deviation of the log hazard.
        censored: Share of cases without an observed event.
        rna_shift: Change of each gene with centre B's protocol, sd, on the log scale.
        stain_shift: Share by which centre B's eosin is stronger and its haematoxylin weaker.
        missing: Probability that a clinical field that can be missing is.
        width_um: Side of a slide.
        mpp: Of level 0, micrometres per pixel; levels 1 and 2 are 4 and 16 times coarser.
    """

    cases: int = Field(150, ge=1)
    seed: int = Field(0, ge=0)
    centre_b: float = Field(0.3, ge=0, le=1)
    interaction: float = Field(0.5, ge=0, le=1)
    sigma: float = Field(3.0, ge=0, le=10)
    censored: float = Field(0.64, ge=0, lt=1)
    rna_shift: float = Field(0.3, ge=0, le=10)
    stain_shift: float = Field(0.08, ge=0, lt=1)
    missing: float = Field(0.03, ge=0, le=1)
    width_um: int = Field(2048, ge=256, multiple_of=64)
    mpp: float = Field(0.25, gt=0, le=1)


@dataclass(frozen=True)
class Latents:
    """The truth behind n cases.

    Attributes:
        h: (n, d_h) histology factors.
        r: (n, d_r) RNA factors.
        c: (n, d_c) clinical factors.
        eta: (n,) oracle risk, the true log hazard.
        event: (n,) True = observed.
        time: (n,) months to the event or the end of follow-up.
    """

    h: FloatArray
    r: FloatArray
    c: FloatArray
    eta: FloatArray
    event: npt.NDArray[np.bool_]
    time: FloatArray


def simulate_latents(
    n: int,
    lam: float,
    seed: int,
    *,
    dims: tuple[int, int, int] = (8, 8, 4),
    sigma: float = 1.5,
    censored: float = 0.64,
) -> Latents:
    """Draw factors, risks and censored outcomes of n cases.

        h, r, c ~ N(0, I)
        eta = sigma [sqrt(1-λ) (h_1 + r_1 + c_1) + sqrt(λ) (h_1 r_1 + h_2 c_1 + r_2 c_2)] / sqrt 3
        T = 60 (E exp(-eta))^(1/0.9), E ~ Exp(1);   C ~ U(0, c*)

    with c* such that the wanted share is censored. The factors are isotropic, so directions
    along the axes stand for any orthonormal ones.

    Args:
        n: Number of cases.
        lam: Share λ of the variance of eta that the products carry; with 1, no additive model
            of the three modalities does better than chance.
        seed: Of the random numbers.
        dims: Numbers of factors of histology, RNA and clinical record, at least 2 each.
        sigma: Standard deviation of eta.
        censored: Share of cases without an observed event.

    Source: for the times, inversion of a Weibull hazard: Bender, Augustin and Blettner,
    Statistics in Medicine 2005, table II.
    """
    rng = np.random.default_rng(seed)
    h, r, c = (rng.normal(size=(n, dim)) for dim in dims)
    additive = h[:, 0] + r[:, 0] + c[:, 0]
    products = h[:, 0] * r[:, 0] + h[:, 1] * c[:, 0] + r[:, 1] * c[:, 1]
    eta = sigma * (np.sqrt(1 - lam) * additive + np.sqrt(lam) * products) / np.sqrt(3)
    until_event = 60 * (rng.exponential(size=n) * np.exp(-eta)) ** (1 / 0.9)
    # C = c* u is before T exactly when T / u exceeds c*, so c* is a quantile of T / u.
    follow_up = rng.uniform(size=n)
    follow_up *= np.quantile(until_event / follow_up, 1 - censored)
    event = until_event <= follow_up
    return Latents(h, r, c, eta, event, np.minimum(until_event, follow_up))


def simulate_cohort(directory: Path, config: SimulateConfig, *, progress: Progress) -> None:
    """Write a cohort, or what is still missing of it.

    `{directory}/data/{id}/` holds what the public download has of each case,
    `{directory}/truth.csv` what no real cohort can tell. A case appears whole or not at all.

    Args:
        directory: A new or empty folder, or one that an interrupted run has left.
        config: The settings.
        progress: Called after each case.

    Raises:
        ConfigError: The folder holds something else, or a cohort of other settings.
    """
    latents = simulate_latents(
        config.cases,
        config.interaction,
        config.seed,
        dims=COHORT_DIMS,
        sigma=config.sigma,
        censored=config.censored,
    )
    _claim(directory, config)  # after the draw: settings that fail there claim no folder
    event, months = _outcomes(latents)
    case_ids = _case_ids(config)
    _write_truth(directory / "truth.csv", case_ids, latents, event, months)
    for index, case_id in enumerate(case_ids):
        folder = directory / "data" / case_id
        if not folder.exists():
            labels = {
                "progression": int(event[index]),
                "Time_to_prog_or_FUend": int(months[index]),
            }
            _write_case(folder, config, latents, index, labels)
        progress(index + 1, len(case_ids))


def _claim(directory: Path, config: SimulateConfig) -> None:
    """Store the settings in a new folder, or check that the folder's settings are these."""
    path = directory / "simulate.json"
    directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        if any(directory.iterdir()):
            raise ConfigError(f"{directory}: expected a new or empty folder, found other files")
        _write_text(path, config.model_dump_json(indent=2) + "\n")
    try:
        found = SimulateConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError(f"{path}: expected settings, found {first_problem(error)}") from error
    if found != config:
        differing = differences(found.model_dump(), config.model_dump())
        raise ConfigError(f"{directory}: holds a cohort simulated with other settings: {differing}")


def _case_ids(config: SimulateConfig) -> list[str]:
    """Name the cases as CHIMERA does: 3A_001 ... of centre A, then 3B_301 ... of centre B."""
    in_b = round(config.cases * config.centre_b)
    counts = {"A": config.cases - in_b, "B": in_b}
    return [
        f"3{centre}_{FIRST_ID[centre] + i:03d}" for centre, n in counts.items() for i in range(n)
    ]


def _write_case(
    folder: Path, config: SimulateConfig, latents: Latents, index: int, labels: dict[str, int]
) -> None:
    """Write one case under another name, then rename it."""
    case_id = folder.name
    in_b = case_id.startswith("3B")
    rng = np.random.default_rng([config.seed, index])
    partial = folder.parent.parent / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    clinical = clinical_record(latents.c[index], config.missing, rng) | labels
    rna = rna_record(latents.r[index], config.rna_shift * in_b, rng)
    _write_text(partial / f"{case_id}_CD.json", json.dumps(clinical, indent=4))
    _write_text(partial / f"{case_id}_RNA.json", json.dumps(rna, indent=4))
    look = SlideLook(config.width_um, config.mpp, config.stain_shift * in_b)
    write_slide(partial / f"{case_id}_HE.tif", latents.h[index], look, rng)
    folder.parent.mkdir(exist_ok=True)
    partial.replace(folder)


def _outcomes(latents: Latents) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int_]]:
    """Return events (n,) and whole months (n,) as CHIMERA has them; the study ends some day."""
    months = np.clip(np.ceil(STRETCH * latents.time), 1, LAST_MONTH + 1).astype(int)
    return latents.event & (months <= LAST_MONTH), np.minimum(months, LAST_MONTH)


def _write_truth(
    path: Path,
    case_ids: list[str],
    latents: Latents,
    event: npt.NDArray[np.bool_],
    months: npt.NDArray[np.int_],
) -> None:
    """Write what no real cohort can tell, one row a case."""
    names = [f"{kind}_{i + 1}" for kind in "hrc" for i in range(2)]
    factors = np.hstack([latents.h, latents.r, latents.c])
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case_id", "centre", "event", "time", "oracle_risk", *names])
        for i, case_id in enumerate(case_ids):
            row = [case_id, case_id[1], int(event[i]), months[i], latents.eta[i], *factors[i]]
            table.writerow(row)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
