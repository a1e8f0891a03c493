"""RNA and clinical records for simulated cases, in the shape of the CHIMERA download."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

GENES = Path(__file__).with_name("genes.txt")
RNA_FLOOR = 3.69463296517318
"""What CHIMERA's logarithmic RNA files hold for a gene without any read."""


@dataclass(frozen=True)
class Program:
    """Genes that move together.

    Attributes:
        factor: What moves them: 0 or 1 is an RNA latent, 2 has no bearing on the outcome.
        sign: 1 or -1, up or down with the factor.
        symbols: The genes, parted by blanks.
    """

    factor: int
    sign: int
    symbols: str


PROGRAMS = {
    "cell cycle": Program(
        0,
        1,
        """
        ANLN ASPM AURKA AURKB BUB1 BUB1B CCNA2 CCNB1 CCNB2 CDC20 CDC6 CDCA8 CDK1 CENPA
        CENPF DLGAP5 E2F1 ECT2 FOXM1 GTSE1 HMMR KIF11 KIF20A KIF23 KIF2C MAD2L1 MCM2
        MELK MKI67 NCAPG NDC80 NEK2 NUF2 NUSAP1 PBK PCNA PLK1 PRC1 TOP2A TPX2 TTK
        """,
    ),
    "luminal": Program(
        0,
        -1,
        """
        BHMT CYP2J2 CYP4B1 ELF3 ERBB2 ERBB3 FABP4 FGFR3 FOXA1 GATA3 GPD1L GRHL3 HMGCS2
        KRT18 KRT19 KRT20 KRT7 KRT8 PPARG PSCA SNX31 SPINK1 TBX2 TBX3 TMPRSS2 TRIM24
        UPK1A UPK1B UPK2 UPK3A VGLL1 XBP1
        """,
    ),
    "immune": Program(
        1,
        1,
        """
        CCL4 CCL5 CD2 CD247 CD27 CD3D CD3E CD3G CD48 CD52 CD53 CD69 CD8A CD8B CTLA4
        CXCL10 CXCL9 CXCR3 CXCR6 GZMA GZMB GZMH GZMK ICOS IDO1 IFNG IL2RB IL2RG IRF1
        KLRD1 LAG3 NKG7 PDCD1 PRF1 STAT1 TAP1 TIGIT
        """,
    ),
    "stroma": Program(
        1,
        -1,
        """
        ACTA2 BGN CDH11 CDH2 CNN1 COL10A1 COL11A1 COL1A1 COL1A2 COL3A1 COL5A1 COL5A2
        COL6A1 COL6A3 DCN FAP FBLN1 FBN1 FN1 LUM MMP11 MMP2 MYH11 MYL9 PDGFRB POSTN
        SNAI2 SPARC TAGLN THY1 TIMP2 TWIST1 VIM ZEB1 ZEB2
        """,
    ),
    "basal": Program(
        2,
        1,
        """
        CD44 CDH3 COL17A1 COL7A1 DSC2 DSC3 DSG2 DSG3 EGFR ITGA6 ITGB4 IVL KRT14 KRT16
        KRT17 KRT5 KRT6A KRT6B KRT6C LAMA3 LAMB3 LAMC2 PI3 PKP1 S100A2 S100A7 S100A8
        S100A9 SERPINB3 SERPINB4 SPRR1B SPRR2A TGM1 TP63
        """,
    ),
}


@dataclass(frozen=True)
class Panel:
    """How the G genes behave; the same for every cohort, so that one can test on another.

    Attributes:
        genes: Symbols, sorted.
        level: (G,) mean expression.
        loading: (G, 3) change of a gene with each factor.
        protocol: (G,) change of a gene with the other centre's laboratory protocol, sd 1.
    """

    genes: tuple[str, ...]
    level: FloatArray
    loading: FloatArray
    protocol: FloatArray


@cache
def gene_panel() -> Panel:
    """Return the simulated genes: HGNC symbols from `genes.txt`, their levels and programs."""
    genes = tuple(GENES.read_text(encoding="utf-8").split())
    row = {gene: i for i, gene in enumerate(genes)}
    rng = np.random.default_rng(0)
    level = rng.normal(8.5, 1.8, len(genes))
    protocol = rng.normal(0, 1, len(genes))
    loading = rng.normal(0, 0.3, (len(genes), 3))
    for program in PROGRAMS.values():
        rows = [row[gene] for gene in program.symbols.split()]
        loading[rows, program.factor] = program.sign * rng.uniform(0.6, 1.2, len(rows))
    return Panel(genes, level, loading, protocol)


def rna_record(latents: FloatArray, shift: float, rng: np.random.Generator) -> dict[str, float]:
    """Return gene symbol → expression on CHIMERA's log scale.

    Args:
        latents: (2,) RNA latents of the case.
        shift: Strength of the laboratory's protocol, in units of the log scale.
        rng: Source of everything that is not a latent.
    """
    panel = gene_panel()
    factors = np.append(latents, rng.normal())
    values = panel.level + panel.loading @ factors + shift * panel.protocol
    values += rng.normal(0, 0.3, len(values))
    return dict(zip(panel.genes, np.maximum(values, RNA_FLOOR).tolist(), strict=True))


def clinical_record(
    latents: FloatArray, missing: float, rng: np.random.Generator
) -> dict[str, str | int | float]:
    """Return a record with the keys, order and codes of CHIMERA Task 3, without the labels.

    The first latent shows in age, stage, EORTC and BRS, the second in the number of
    instillations, LVI and variant; the other fields say nothing.

    Args:
        latents: (2,) clinical latents of the case.
        missing: Probability that a field that can be missing is: smoking, LVI, instillations.
        rng: Source of everything that is not a latent.
    """
    age, instillations = (latents + rng.normal(0, 0.25, 2)) / np.hypot(1, 0.25)
    seen = latents[[0, 0, 0, 1, 1]] + rng.normal(0, 0.7, 5)
    luck = rng.uniform(size=5)
    gone = rng.uniform(size=3) < missing
    t1 = bool(seen[0] > -1.2)
    return {
        "age": int(np.clip(round(69 + 9 * age), 35, 97)),
        "sex": "Male" if luck[0] < 0.8 else "Female",
        "smoking": "-1" if gone[0] else "Yes" if luck[1] < 0.65 else "No",
        "tumor": "Primary",
        "stage": "T1HG" if t1 else "TaHG",
        "substage": "-1" if not t1 else "T1e" if luck[2] < 0.55 else "T1m",
        "grade": "G3" if luck[3] < 0.9 else "G2",
        "reTUR": "Yes" if luck[4] < 0.75 else "No",
        "LVI": "-1" if gone[1] else "Yes" if seen[3] > 0.9 else "No",
        "variant": "UCC + Variant" if seen[4] > 1.1 else "UCC",
        "EORTC": "Highest risk" if seen[1] > 0.2 else "High risk",
        "no_instillations": -1 if gone[2] else float(max(round(19 + 9 * instillations), 0)),
        "BRS": f"BRS{1 + int(seen[2] > -0.5) + int(seen[2] > 0.6)}",
    }
