"""The baselines: fitted in the fold alone, and each the model that it says it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from model.batch import Bag
from model.case import Case, Record
from model.errors import CaseError, ConfigError
from model.interface import ClinicalSchema
from train.baselines import (
    Coxnet,
    Forest,
    KaplanMeier,
    LateFusion,
    RidgeCox,
    build_baselines,
    out_of_fold,
    z_scored,
)
from train.cohort import LabelledCase, outcomes
from train.config import RnaConfig
from train.folds import inner_folds
from train.losses import cox_nll
from train.metrics import harrell_c
from train.views import (
    Cases,
    Clinical,
    Columns,
    Components,
    FloatArray,
    Genes,
    Histology,
    MeanEmbedding,
    Together,
    View,
)

SCHEMA = ClinicalSchema(numbers=("age",), categories=("sex",))


def make_cases(
    n: int = 120, *, genes: int = 30, signal: float = 1.0, seed: int = 0
) -> list[LabelledCase]:
    """Return cases whose risk is that of age, of gene G0 and of the distance of G1 from 0."""
    rng = np.random.default_rng(seed)
    expression = rng.normal(3, 2, size=(n, genes))
    age = rng.normal(60, 10, n)
    sex = rng.choice(["female", "male"], n)
    risk = signal * ((age - 60) / 10 + (expression[:, 0] - 3) / 2)
    time = np.ceil(rng.exponential(30 * np.exp(-risk)))
    event = rng.random(n) < 0.6
    return [
        LabelledCase(
            case=Case(
                f"P{i:03d}",
                rna=Record({f"G{g}": v for g, v in enumerate(expression[i].tolist())}, Path("rna")),
                clinical=Record({"age": age[i], "sex": sex[i]}, Path("clinical")),
            ),
            event=bool(event[i]),
            time=float(time[i]),
            centre="here",
        )
        for i in range(n)
    ]


class Matrix:
    """A view of covariates that are there already."""

    def __init__(self, rows: dict[str, FloatArray]) -> None:
        self.rows = rows

    def fit(self, cases: Cases) -> Columns:
        return lambda others: np.stack([self.rows[case.case_id] for case in others])


def concordance(risk: FloatArray, cases: Sequence[LabelledCase]) -> float:
    return harrell_c(risk, outcomes(cases))


# -- views ---------------------------------------------------------------------------------------


def test_covariates_are_standardised_by_the_training_cases() -> None:
    train, others = make_cases(), make_cases(50, seed=1)
    columns = Genes().fit(train)

    np.testing.assert_allclose(columns(train).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(columns(train).std(axis=0), 1, atol=1e-6)
    assert np.abs(columns(others).mean(axis=0)).max() > 0.05
    np.testing.assert_array_equal(columns(others)[7], columns(others[7:8])[0])


def test_genes_of_most_variance_are_those_of_the_training_cases() -> None:
    train = make_cases()
    spread = np.array([list((c.case.rna or pytest.fail()).values.values()) for c in train]).std(0)

    columns = Genes(top_variance=4).fit(train)(train)

    whole = Genes().fit(train)(train)  # in the order of the sorted names
    names = sorted(f"G{i}" for i in range(30))
    kept = [i for i, name in enumerate(names) if int(name[1:]) in np.argsort(-spread)[:4]]
    np.testing.assert_allclose(columns, whole[:, kept])


def test_a_case_without_the_modality_gets_the_training_mean() -> None:
    train = make_cases()
    bare = replace(train[0], case=Case("bare"))

    for view in (Genes(), Clinical(SCHEMA)):
        row = view.fit(train)([bare, train[1]])
        assert not row[0].any()
        assert row[1].any()


def test_components_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    train, others = make_cases(), make_cases(20, seed=1)
    genes = Genes().fit(train)

    found = Components(Genes(), 5).fit(train)

    pca = PCA(5, whiten=True, svd_solver="full").fit(genes(train))
    expected = pca.transform(genes(others)) * np.sqrt(len(train) / (len(train) - 1))
    np.testing.assert_allclose(np.abs(found(others)), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(np.cov(found(train).T, bias=True), np.eye(5), atol=1e-6)


def test_no_more_components_than_there_are_axes() -> None:
    train = make_cases(12, genes=4)

    assert Components(Genes(), 20).fit(train)(train).shape == (12, 4)


def test_views_side_by_side() -> None:
    train = make_cases()
    both = Together((Clinical(SCHEMA), Genes())).fit(train)(train)

    np.testing.assert_array_equal(both[:, -30:], Genes().fit(train)(train))
    np.testing.assert_array_equal(both[:, :-30], Clinical(SCHEMA).fit(train)(train))


# -- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("genes", [6, 90])
def test_ridge_cox_minimises_its_penalised_likelihood(genes: int) -> None:
    """More covariates than cases too, where the fit turns to the principal axes."""
    cases = make_cases(60, genes=genes)
    x = np.random.default_rng(3).normal(size=(60, genes)) * np.linspace(0.1, 20, genes)
    view = Matrix({case.case_id: row for case, row in zip(cases, x, strict=True)})
    outcome, standard = outcomes(cases), torch.from_numpy((x - x.mean(0)) / x.std(0))
    event, time = torch.from_numpy(outcome.event), torch.from_numpy(outcome.time)

    def loss(beta: FloatArray) -> tuple[float, FloatArray]:
        b = torch.from_numpy(beta).requires_grad_()
        total = cox_nll(standard @ b, event=event, time=time) * event.sum()
        total = total + genes / (2 * 0.5**2) * (b**2).sum()
        total.backward()
        assert b.grad is not None
        return float(total.detach()), b.grad.numpy()

    expected = minimize(loss, np.zeros(genes), jac=True, options={"gtol": 1e-8}).x

    risk = RidgeCox(view, spreads=(0.5,)).fit(cases)(cases)

    ours, theirs = risk - risk.mean(), standard.numpy() @ expected
    np.testing.assert_allclose(ours, theirs - theirs.mean(), atol=1e-5)


@pytest.mark.slow
def test_the_penalty_follows_the_signal() -> None:
    """Of pure noise the inner folds keep nothing, of a strong signal much."""
    sd = {}
    for signal in (0.0, 2.0):
        cases = make_cases(200, signal=signal, seed=4)
        sd[signal] = RidgeCox(Genes()).fit(cases)(cases).std()

    assert sd[0.0] < 0.1
    assert sd[2.0] > 0.5


@pytest.mark.slow
def test_coxnet_keeps_the_gene_that_matters() -> None:
    train, others = make_cases(200, genes=60, seed=5), make_cases(200, genes=60, seed=6)
    score = Coxnet(Genes()).fit(train)

    alone = RidgeCox(Genes(top_variance=60)).fit(train)

    assert concordance(score(others), others) > concordance(alone(others), others)
    # What the risk does not follow has a coefficient of 0.
    silent = [g for g in range(60) if np.allclose(score(others), score(nudged(others, g)))]
    assert 0 not in silent
    assert len(silent) > 20


def nudged(cases: Sequence[LabelledCase], gene: int) -> list[LabelledCase]:
    changed = []
    for case in cases:
        assert case.case.rna is not None
        values = {**case.case.rna.values, f"G{gene}": 0.0}
        changed.append(replace(case, case=replace(case.case, rna=Record(values, Path("rna")))))
    return changed


def test_an_inner_path_may_end_early() -> None:
    cases = make_cases(60, genes=3, seed=2)  # of whose inner folds one ends after 6 of 20 strengths

    risk = Coxnet(Genes()).fit(cases)(cases)

    assert concordance(risk, cases) > 0.55


@pytest.mark.parametrize("view", [Clinical(SCHEMA), Components(Clinical(SCHEMA))])
def test_columns_that_never_vary_carry_no_risk(view: View) -> None:
    cases = [
        replace(case, case=replace(case.case, clinical=Record({"sex": "male"}, Path("clinical"))))
        for case in make_cases(40)
    ]
    np.testing.assert_array_equal(RidgeCox(view).fit(cases)(cases), np.zeros(40))


@pytest.mark.slow
def test_the_forest_finds_what_is_not_linear() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(300, 3))
    cases = [
        LabelledCase(Case(f"P{i}"), bool(rng.random() < 0.7), float(t), "here")
        for i, t in enumerate(
            np.ceil(1000 * np.exp(-2 * x[:, 0] ** 2) * rng.exponential(size=300) ** 0.3)
        )
    ]
    view = Matrix({case.case_id: row for case, row in zip(cases, x, strict=True)})
    train, others = cases[:200], cases[200:]

    forest = Forest(view, trees=50).fit(train)(others)

    assert concordance(forest, others) > 0.7
    assert concordance(RidgeCox(view).fit(train)(others), others) < 0.6
    np.testing.assert_array_equal(forest, Forest(view, trees=50).fit(train)(others))


@pytest.mark.slow
def test_late_fusion_adds_z_scores() -> None:
    train, others = make_cases(), make_cases(40, seed=1)
    parts = (RidgeCox(Clinical(SCHEMA)), RidgeCox(Genes()))

    found = LateFusion(parts).fit(train)(others)

    expected = np.zeros(40)
    for part in parts:
        score = part.fit(train)
        own = score(train)
        expected += (score(others) - own.mean()) / own.std()
    np.testing.assert_allclose(found, expected)


def test_kaplan_meier_knows_no_patient() -> None:
    cases = make_cases()
    risk = out_of_fold(KaplanMeier(), cases, [np.arange(60), np.arange(60, 120)])

    assert concordance(risk, cases) == 0.5
    np.testing.assert_array_equal(z_scored(KaplanMeier().fit(cases), cases)(cases), np.zeros(120))


# -- folds ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_test_fold_does_not_touch_its_own_risks() -> None:
    """Other outcomes of the test cases leave the model that scores them as it was."""
    cases = make_cases()
    tests = [np.arange(40), np.arange(40, 120)]
    model = LateFusion((RidgeCox(Clinical(SCHEMA)), RidgeCox(Components(Genes(), 5))))

    first = out_of_fold(model, cases, tests)
    changed = [
        replace(case, event=not case.event, time=case.time + i) for i, case in enumerate(cases[:40])
    ] + cases[40:]
    second = out_of_fold(model, changed, tests)

    np.testing.assert_allclose(second[:40], first[:40])
    assert not np.allclose(second[40:], first[40:])


@pytest.mark.slow
def test_risks_of_repeated_folds_are_averaged() -> None:
    cases = make_cases()
    model = RidgeCox(Clinical(SCHEMA))
    half, other = np.arange(60), np.arange(60, 120)
    odd, even = np.arange(1, 120, 2), np.arange(0, 120, 2)

    both = out_of_fold(model, cases, [half, other, odd, even])

    once = out_of_fold(model, cases, [half, other])
    again = out_of_fold(model, cases, [odd, even])
    np.testing.assert_allclose(both, (once + again) / 2)


def test_inner_folds_share_no_case_and_leave_none_out() -> None:
    cases = make_cases(50)
    seen: list[str] = []
    for rest, held in inner_folds(cases, 4):
        assert not {c.case_id for c in rest} & {c.case_id for c in held}
        assert len(rest) + len(held) == 50
        seen += [case.case_id for case in held]
    assert sorted(seen) == sorted(case.case_id for case in cases)


def test_embeddings_are_averaged_and_read_once() -> None:
    cases = make_cases(30)
    rng = np.random.default_rng(0)
    sizes = {case.case_id: int(rng.integers(1, 9)) for case in cases[1:]}  # the first has no slide
    stored = {name: torch.from_numpy(rng.normal(3, 2, (n, 5))) for name, n in sizes.items()}
    reads: list[str] = []

    class Stored:
        def get(self, case_id: str) -> Bag | None:
            reads.append(case_id)
            if case_id not in stored:
                return None
            return Bag(stored[case_id], torch.zeros(0, 2), torch.zeros(0))

    view = MeanEmbedding(Stored())  # type: ignore[arg-type]
    found = view.fit(cases[:20])(cases)
    view.fit(cases[10:])(cases)

    assert sorted(reads) == sorted(case.case_id for case in cases)
    means = np.stack([stored[case.case_id].numpy().mean(axis=0) for case in cases[1:]])
    expected = (means - means[:19].mean(axis=0)) / means[:19].std(axis=0)
    np.testing.assert_allclose(found[1:], expected)
    assert not found[0].any()
    with pytest.raises(ConfigError, match="expected a slide of some training case, found none"):
        view.fit(cases[:1])


def test_a_constant_risk_stays_constant() -> None:
    """The mean of 36 tenths is not a tenth to the last bit."""
    risks = z_scored(lambda cases: np.full(len(cases), 0.1), make_cases(36))
    assert set(risks(make_cases(7))) == {0.0}


def without(cases: Sequence[LabelledCase], genes: set[str]) -> list[LabelledCase]:
    """Return the cases, of which every third lacks these genes."""
    changed = []
    for i, case in enumerate(cases):
        assert case.case.rna is not None
        values = {k: v for k, v in case.case.rna.values.items() if i % 3 or k not in genes}
        changed.append(replace(case, case=replace(case.case, rna=Record(values, Path("rna")))))
    return changed


@pytest.mark.slow
def test_baselines_see_the_genes_of_the_run(tmp_path: Path) -> None:
    cases = without(make_cases(90), {"G28", "G29"})
    tests = [np.arange(0, 90, 2), np.arange(1, 90, 2)]
    panel = tmp_path / "panel.txt"
    panel.write_text("\n".join(f"G{i}" for i in range(28)))
    sets = tmp_path / "sets.csv"
    sets.write_text("one,two\nG0,G1\n")

    def risk(config: RnaConfig) -> FloatArray:
        baselines = build_baselines(["rna"], SCHEMA, config)
        return out_of_fold(baselines["RNA Cox, 20 components"], cases, tests)

    with pytest.raises(CaseError, match=r"^case P003: rna: expected at most 0 of 30 genes missing"):
        risk(RnaConfig())
    for config, genes in (
        (RnaConfig(max_missing=0.1), 30),
        (RnaConfig(panel=panel), 28),
        (RnaConfig(gene_sets=sets), 2),
        (RnaConfig(gene_sets=sets, panel=panel), 28),
    ):
        assert len(Genes.of(config).spec(cases).genes) == genes
        assert concordance(risk(config), cases) > 0.55


@pytest.mark.slow
def test_baselines_are_those_that_the_modalities_allow() -> None:
    clinical = build_baselines(["clinical"], SCHEMA)
    assert list(clinical) == ["Kaplan-Meier", "clinical Cox", "random survival forest"]
    both = build_baselines(["rna", "clinical"], SCHEMA)
    assert {"RNA Coxnet", "late fusion", "joint Cox"} <= set(both)
    assert not any("histology" in name for name in both)
    every = build_baselines(["slide", "rna", "clinical"], SCHEMA)
    assert set(both) < set(every)
    assert set(every) - set(both) == {
        "histology Cox, 20 components",
        "late fusion, RNA + clinical",
    }

    cases = make_cases(100)
    tests = [np.arange(0, 100, 2), np.arange(1, 100, 2)]
    for name in ("clinical Cox", "RNA Cox, 20 components", "joint Cox", "late fusion"):
        assert concordance(out_of_fold(both[name], cases, tests), cases) > 0.55, name
    assert every["late fusion, RNA + clinical"] == both["late fusion"]


def test_slides_are_seen_as_the_run_says() -> None:
    bags = MeanEmbedding(None)  # type: ignore[arg-type]
    for said, seen in ((bags, bags), (None, Histology())):
        baselines = build_baselines(["slide"], SCHEMA, histology=said)
        assert baselines["histology Cox, 20 components"] == RidgeCox(Components(seen))
