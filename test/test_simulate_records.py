import json
from pathlib import Path

import numpy as np
import pytest

from train.simulate_records import GENES, PROGRAMS, RNA_FLOOR, clinical_record, rna_record

CHIMERA = Path(__file__).parent.parent.parent / "shared" / "data" / "chimera"

CATEGORIES = {
    "sex": {"Male", "Female"},
    "smoking": {"-1", "No", "Yes"},
    "tumor": {"Primary"},
    "stage": {"T1HG", "TaHG"},
    "substage": {"-1", "T1e", "T1m"},
    "grade": {"G2", "G3"},
    "reTUR": {"No", "Yes"},
    "LVI": {"-1", "No", "Yes"},
    "variant": {"UCC", "UCC + Variant"},
    "EORTC": {"High risk", "Highest risk"},
    "BRS": {"BRS1", "BRS2", "BRS3"},
}


def test_clinical_values_are_the_schemas() -> None:
    rng = np.random.default_rng(0)
    records = [clinical_record(rng.normal(size=2), 0.2, rng) for _ in range(400)]
    for key, allowed in CATEGORIES.items():
        assert {record[key] for record in records} == allowed
    assert all(isinstance(record["age"], int) and 35 <= record["age"] <= 97 for record in records)
    instillations = [record["no_instillations"] for record in records]
    assert instillations.count(-1) == pytest.approx(80, abs=30)
    assert all(value >= 0 for value in instillations if value != -1)
    assert all((r["substage"] == "-1") == (r["stage"] == "TaHG") for r in records)


def test_rna_never_falls_below_the_floor() -> None:
    rng = np.random.default_rng(0)
    values = np.array([[*rna_record(rng.normal(size=2), 0.3, rng).values()] for _ in range(50)])
    assert values.min() == RNA_FLOOR
    assert np.isfinite(values).all()
    assert (values == RNA_FLOOR).mean() < 0.05
    assert 7 < values.mean() < 10


def test_latents_show_in_the_records() -> None:
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(200, 2))
    expression = [rna_record(factors, 0.3, rng) for factors in latents]
    clinical = [clinical_record(factors, 0.0, rng) for factors in latents]

    def correlation(values: list[float], latent: int) -> float:
        return float(np.corrcoef(values, latents[:, latent])[0, 1])

    programs = {
        name: [
            float(np.mean([record[g] for g in program.symbols.split()])) for record in expression
        ]
        for name, program in PROGRAMS.items()
    }
    assert correlation(programs["cell cycle"], 0) > 0.9
    assert correlation(programs["immune"], 1) > 0.9
    assert correlation(programs["stroma"], 1) < -0.9
    assert abs(correlation(programs["cell cycle"], 1)) < 0.35
    assert correlation([float(record["age"]) for record in clinical], 0) > 0.9
    assert correlation([float(record["no_instillations"]) for record in clinical], 1) > 0.9
    assert correlation([float(record["LVI"] == "Yes") for record in clinical], 1) > 0.3


def test_other_centre_shifts_the_genes_and_not_the_latents() -> None:
    pair = [rna_record(np.zeros(2), shift, np.random.default_rng(1)) for shift in (0.0, 0.3)]
    change = np.subtract(*([*record.values()] for record in reversed(pair)))
    assert change.std() == pytest.approx(0.3, abs=0.02)


def test_genes_are_sorted_and_hold_the_programs() -> None:
    genes = GENES.read_text().split()
    assert genes == sorted(set(genes))
    assert 900 < len(genes) < 1200
    programs = [program.symbols.split() for program in PROGRAMS.values()]
    symbols = [symbol for program in programs for symbol in program]
    assert len(symbols) == len(set(symbols))
    assert set(symbols) <= set(genes)
    assert all(30 <= len(program) <= 60 for program in programs)


@pytest.mark.skipif(not CHIMERA.is_dir(), reason="the real gene list is not here")
def test_genes_are_real_symbols_of_chimera() -> None:
    real = set((CHIMERA / "gene_order_19359.txt").read_text().split())
    assert set(GENES.read_text().split()) <= real


@pytest.mark.skipif(not CHIMERA.is_dir(), reason="the real clinical schema is not here")
def test_categories_are_those_of_chimera() -> None:
    schema = json.loads((CHIMERA / "clinical_schema.json").read_text())
    assert {key: set(values) for key, values in schema["categories"].items()} == CATEGORIES
    record = clinical_record(np.zeros(2), 0.0, np.random.default_rng(0))
    assert schema["json_keys_in_order"] == [*record, "progression", "Time_to_prog_or_FUend"]


def test_what_is_missing_is_drawn_for_each_field() -> None:
    rng = np.random.default_rng(0)
    records = [clinical_record(np.zeros(2), 0.5, rng) for _ in range(100)]
    gone = [[r["smoking"] == "-1", r["LVI"] == "-1", r["no_instillations"] == -1] for r in records]
    assert np.abs(np.corrcoef(np.array(gone, dtype=float).T) - np.eye(3)).max() < 0.5
