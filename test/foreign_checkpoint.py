"""A made-up checkpoint of the second-place CHIMERA repository, and its equations written out."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from model.batch import Bag
from model.bundle import Bundle
from model.case import Case, Record
from train.importer import import_checkpoint

Array = NDArray[np.float64]
State = dict[str, torch.Tensor]

GENES = [f"GENE{index}" for index in range(120)]
NUMBERS = ["age", "no_instillations"]
CATEGORIES = {
    "sex": ["Female", "Male"],
    "smoking": ["-1", "No", "Yes"],
    "tumor": ["Primary"],
    "stage": ["T1HG", "TaHG"],
    "substage": ["-1", "T1e", "T1m"],
    "grade": ["G2", "G3"],
    "reTUR": ["No", "Yes"],
    "LVI": ["-1", "No", "Yes"],
    "variant": ["UCC", "UCC + Variant"],
    "EORTC": ["High risk", "Highest risk"],
    "BRS": ["BRS1", "BRS2", "BRS3"],
}
SLIDE, ATTENTION, RNA, RANK = 12, 6, 8, 5
OUTPUTS = {"fuse_hr": 4, "fuse_hc": 3, "fuse_rc": 2}
VARIANTS = {
    "abmil": (),
    "pg": ("fuse_hr", "fuse_hc", "fuse_rc"),
    "img": (),
    "imgcli": ("fuse_hc",),
    "imgrna": ("fuse_hr",),
    "rnacli": ("fuse_rc",),
}
USES = {
    "abmil": ("slide", "clinical", "rna"),
    "pg": ("slide", "clinical", "rna"),
    "img": ("slide",),
    "imgcli": ("slide", "clinical"),
    "imgrna": ("slide", "rna"),
    "rnacli": ("clinical", "rna"),
}
PAIRED = {
    "fuse_hr": ("slide", "rna"),
    "fuse_hc": ("slide", "clinical"),
    "fuse_rc": ("rna", "clinical"),
}


def records(count: int, columns: list[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Make clinical records with every category, "-1" among the numbers, too."""
    rows = []
    for index in range(count):
        row: dict[str, Any] = {
            "age": int(rng.integers(40, 90)),
            "no_instillations": int(rng.choice([-1, 3, 9, 15, 27])),
        }
        for name in columns:
            row[name] = CATEGORIES[name][(index + int(rng.integers(3))) % len(CATEGORIES[name])]
        rows.append(row)
    for index, name in enumerate(columns):
        for offset, value in enumerate(CATEGORIES[name]):
            rows[(index + offset) % count][name] = value
    return rows


def preprocessor(columns: list[str], rng: np.random.Generator) -> ColumnTransformer:
    transformers = [
        ("num", StandardScaler(), NUMBERS),
        ("cat", OneHotEncoder(handle_unknown="ignore"), columns),
    ]
    table = pd.DataFrame(records(30, columns, rng)).assign(progression=0)
    return ColumnTransformer(transformers).fit(table)


def state_dict(name: str, clinical: int, rng: np.random.Generator) -> State:
    state: State = {}

    def linear(layer: str, inputs: int, outputs: int) -> None:
        scale = np.sqrt(2 / (inputs + outputs))
        weight = rng.normal(0, scale, (outputs, inputs))
        state[f"{layer}.weight"] = torch.tensor(weight, dtype=torch.float32)
        state[f"{layer}.bias"] = torch.tensor(rng.normal(0, 0.1, outputs), dtype=torch.float32)

    widths = {"slide": SLIDE, "clinical": clinical, "rna": RNA}
    if "slide" in USES[name]:
        linear("attention_net.0", 1024, SLIDE)
        linear("attention_net.3.attention_a.0", SLIDE, ATTENTION)
        linear("attention_net.3.attention_b.0", SLIDE, ATTENTION)
        linear("attention_net.3.attention_c", ATTENTION, 1)
    if "rna" in USES[name]:
        linear("rna_encoder.encoder.0", len(GENES), 16)
        linear("rna_encoder.encoder.3", 16, 10)
        linear("rna_encoder.encoder.6", 10, RNA)
    joined = sum(widths[modality] for modality in USES[name])
    for pair in VARIANTS[name]:
        first, second = PAIRED[pair]
        linear(f"{pair}.f1", widths[first], RANK)
        linear(f"{pair}.f2", widths[second], RANK)
        linear(f"{pair}.out", RANK, OUTPUTS[pair])
        joined = sum(OUTPUTS[one] for one in VARIANTS[name])
    linear("classifiers" if name == "abmil" else "classifier", joined, 1)
    return state


def kaplan_meier(rng: np.random.Generator) -> dict[str, Array]:
    """Make training risks and a product-limit curve with a long plateau."""
    times = np.sort(rng.integers(1, 100, 40)).astype(float)
    event = (rng.random(40) < 0.5) & (times < 50)
    rising = np.unique(times)
    at_risk = np.array([(times >= t).sum() for t in rising])
    deaths = np.array([event[times == t].sum() for t in rising])
    risks = np.float32(rng.normal(0, 2, 40)).astype(float)
    risks[7] = risks[3]
    return {
        "km_times": np.concatenate([[0.0], rising]),
        "km_probs": np.concatenate([[1.0], np.cumprod(1 - deaths / at_risk)]),
        "train_risks": risks,
    }


class Foreign:
    """A checkpoint folder, and what its own program would answer."""

    def __init__(self, folder: Path, name: str, *, categories: int = 11, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.folder, self.name, self.rng = folder, name, rng
        self.columns = list(CATEGORIES)[:categories]
        self.preprocessor = preprocessor(self.columns, rng)
        width = len(self.preprocessor.get_feature_names_out())
        self.state = state_dict(name, width, rng)
        self.curve = kaplan_meier(rng)
        self.write()

    def write(self) -> None:
        self.folder.mkdir(exist_ok=True)
        torch.save(self.state, self.folder / "s_0_checkpoint.pt")
        (self.folder / "gene_order.json").write_text(json.dumps(GENES))
        stored = (NUMBERS, self.columns, self.preprocessor)
        joblib.dump(stored, self.folder / "clinical_preprocessor.pkl")
        joblib.dump(self.curve, self.folder / "km_curve.pkl")

    def case(self) -> tuple[Case, Bag | None]:
        patches = int(self.rng.integers(1, 9))
        bag = Bag(
            torch.tensor(self.rng.normal(size=(patches, 1024)), dtype=torch.float32),
            torch.zeros(patches, 2, dtype=torch.int64),
            torch.zeros(patches, dtype=torch.int64),
        )
        expression = dict(zip(GENES, self.rng.uniform(3.69, 25, len(GENES)), strict=True))
        clinical = records(3, self.columns, self.rng)[2]
        return case_of(expression, clinical), bag if "slide" in USES[self.name] else None

    def risk(self, case: Case, bag: Bag | None) -> float:
        """Compute the log hazard in float64 from the model's equations."""
        vectors: dict[str, Array] = {}
        if bag is not None:
            patches = np.maximum(self.linear("attention_net.0", bag.embeddings.double().numpy()), 0)
            tanh = np.tanh(self.linear("attention_net.3.attention_a.0", patches))
            gate = 1 / (1 + np.exp(-self.linear("attention_net.3.attention_b.0", patches)))
            scores = self.linear("attention_net.3.attention_c", tanh * gate)[:, 0]
            weights = np.exp(scores - scores.max())
            vectors["slide"] = weights @ patches / weights.sum()
        if "clinical" in USES[self.name]:
            assert case.clinical is not None
            table = pd.DataFrame([case.clinical.values]).assign(progression=0)
            row = self.preprocessor.transform(table)
            vectors["clinical"] = np.asarray(row.todense() if hasattr(row, "todense") else row)[0]
        if "rna" in USES[self.name]:
            assert case.rna is not None
            hidden = np.array([float(str(case.rna.values.get(gene, 0.0))) for gene in GENES])
            for index in (0, 3, 6):
                hidden = np.maximum(self.linear(f"rna_encoder.encoder.{index}", hidden), 0)
            vectors["rna"] = hidden
        joined = [vectors[modality] for modality in USES[self.name]]
        if VARIANTS[self.name]:
            joined = [self.bilinear(pair, vectors) for pair in VARIANTS[self.name]]
        head = "classifiers" if self.name == "abmil" else "classifier"
        return float(self.linear(head, np.concatenate(joined))[0])

    def bilinear(self, pair: str, vectors: Mapping[str, Array]) -> Array:
        first, second = (vectors[modality] for modality in PAIRED[pair])
        product = self.linear(f"{pair}.f1", first) * self.linear(f"{pair}.f2", second)
        return self.linear(f"{pair}.out", product)

    def linear(self, layer: str, x: Array) -> Array:
        weight, bias = self.state[f"{layer}.weight"], self.state[f"{layer}.bias"]
        return np.asarray(x @ weight.double().numpy().T + bias.double().numpy())

    def time(self, risk: float) -> float:
        """Follow the program's rule, one number at a time."""
        everybody = [*self.curve["train_risks"].tolist(), risk]
        rank = sum(other >= risk for other in everybody)
        wanted = 1.0 - (rank - 1) / len(everybody)
        gaps = [abs(survival - wanted) for survival in self.curve["km_probs"].tolist()]
        return max(0.0, float(self.curve["km_times"][gaps.index(min(gaps))]))


def case_of(expression: Mapping[str, object], clinical: Mapping[str, object]) -> Case:
    path = Path("case.json")
    return Case("3A_001", rna=Record(expression, path), clinical=Record(clinical, path))


def ignore(_: str) -> None:
    pass


def fail(text: str) -> None:
    raise AssertionError(text)


def imported(foreign: Foreign, output: Path) -> Bundle:
    path = import_checkpoint(foreign.folder, trust_pickle=True, warn=ignore, output=output)
    assert path == output / "bundle.safetensors"
    return Bundle.load(path)


def our_risk(
    bundle: Bundle, case: Case, bag: Bag | None, warn: Callable[[str], None] = fail
) -> float:
    member = bundle.members[0]
    return float(member.risk(member.collate([member.inputs(case, bag, warn=warn)]))[0])
