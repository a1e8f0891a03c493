"""A folder of made-up tables in the layout of ../shared/data."""

from pathlib import Path

import numpy as np
import pandas as pd

CASES = 90
GENES = 6
FEATURES = ("DENSITY [X] IN [TUMOR]_HE", "AREA (MM2) OF [Y] IN [TISSUE]_HE", "COUNT [Z]_FFPE")


def write_tables(root: Path, *, seed: int = 0) -> Path:
    """Write survpath, mmp, porpoise and hif tables of one study, "abcd", with a signal in each."""
    rng = np.random.default_rng(seed)
    ids = [f"TCGA-{i:04d}" for i in range(CASES)]
    stage = rng.integers(1, 5, CASES)
    genes = rng.normal(size=(CASES, GENES))
    features = rng.normal(size=(CASES, len(FEATURES)))
    risk = 1.5 * (stage - 2.5) + 2 * genes[:, 0] + 2 * features[:, 0]
    time = np.round(rng.exponential(20 * np.exp(-risk)) + 0.1, 4)
    censored = (rng.random(CASES) < 0.4).astype(int)
    # Some of those who did not die of it have progressed.
    not_progressed = np.where(np.arange(CASES) % 4 == 0, 0, censored)
    age = np.where(np.arange(CASES) == 3, np.nan, 60.0 + rng.normal(size=CASES) * 8)
    female = rng.integers(0, 2, CASES)
    fold = np.arange(CASES) % 3
    roman = np.array(["0", "I", "II", "III", "IV"])[stage]

    survpath = root / "tcga" / "survpath"
    outcome = pd.DataFrame(
        {
            "case_id": ids,
            "slide_id": [f"{i}.svs" for i in ids],
            "age": age,
            "is_female": female.astype(float),
            "survival_months_dss": time,
            "censorship_dss": censored,
            "survival_months_pfi": time / 2,
            "censorship_pfi": not_progressed,
        }
    )
    # A second slide of the first patient repeats its row.
    _write(pd.concat([outcome, outcome.head(1)]), survpath / "tcga_abcd_metadata.csv.gz")
    clinical = pd.DataFrame({"case_id": ids, "stage": roman})
    clinical.loc[5, "stage"] = None
    _write(clinical, survpath / "tcga_abcd_clinical.csv.gz")
    _write(pd.DataFrame({"case_id": ids, "val_fold": fold}), survpath / "tcga_abcd_folds.csv")
    rna = pd.DataFrame(genes, index=ids, columns=[f"G{i}" for i in range(GENES)])
    # One patient has two aliquots, another none.
    rna = pd.concat([rna.drop(ids[7]), rna.loc[[ids[0]]] + 2])
    _write(rna, survpath / "tcga_abcd_rna_xena1577.csv.gz", index=True)

    mmp = pd.DataFrame(
        {
            "case_id": ids,
            "dss_censorship": censored,
            "dss_survival_days": time * 30.4375,
            "pfi_censorship": not_progressed,
            "pfi_survival_days": time / 2 * 30.4375,
            "age_at_initial_pathologic_diagnosis": age,
            "sex": np.where(female == 1, "F", "M"),
            "ajcc_pathologic_tumor_stage": [
                "[Not Available]" if i == 5 else f"Stage {s}{'A' if s != 'IV' else ''}"
                for i, s in enumerate(roman)
            ],
            "test_fold": fold,
        }
    )
    _write(mmp, root / "tcga" / "mmp" / "tcga_abcd_slides_folds.csv.gz")
    scores = pd.DataFrame(genes, columns=[f"G{i}_rnaseq" for i in range(GENES)])
    scores["G0_cnv"] = 1
    scores.insert(0, "case_id", ids)
    _write(scores, root / "tcga" / "porpoise" / "tcga_abcd_all_clean.csv.zip")

    hif = pd.DataFrame(features * 5, columns=list(FEATURES))
    hif["dss_time"] = time
    hif["bcr_patient_barcode"] = ids
    # The second patient has two slides; the last has none.
    _write(pd.concat([hif.iloc[:-1], hif.iloc[[1]]]), root / "hif" / "tcga_abcd_hifs.csv.gz")

    results = root / "results" / "published_results.csv"
    results.parent.mkdir(parents=True)
    results.write_text(
        "cohort,endpoint,protocol,model,modalities,metric,value,sd,source,note\n"
        "TCGA-ABCD,OS,5 folds,MCAT,wsi+omics,C-index,0.6243,0.0382,their files,last epoch\n"
        "TCGA-ABCD,OS,5 folds,SNN,omics,C-index,0.54,,their files,last epoch\n"
        "TCGA-EFGH,OS,5 folds,SNN,omics,C-index,0.99,,their files,last epoch\n"
    )
    return root


def _write(table: pd.DataFrame, path: Path, *, index: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=index)
