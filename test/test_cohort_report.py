"""The page about a cohort: true, whole, safe, and looked at in a browser."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_cohort import make_results, make_run
from quick_train import undrawn
from small_bundles import build_bundle

from model import cohort_figures
from model.bundle import Bundle
from model.causes import cause_of, group_messages
from model.clinical import ClinicalRange, NumberRange
from model.cohort_report import write_cohort_report
from model.cohort_scorer import Result
from model.embedding_range import EmbeddingRange
from model.predictor import SURVIVAL_MONTHS

CASES = 120


class Page(HTMLParser):
    """Collects what a page would load, its tags, its text by tag, and its table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
        self.loads += [value or "" for name, value in attrs if name in names]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1], " ".join(data.split())))

    def of(self, tag: str) -> list[str]:
        return [text for own, text in self.texts if own == tag]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return build_bundle()


@pytest.fixture(scope="module")
def results(bundle: Bundle) -> list[Result]:
    return make_results(bundle, CASES)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, results: list[Result]) -> str:
    path = write_cohort_report(tmp_path_factory.mktemp("report"), results, make_run(), bundle)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out of one test, as `quick_page` does of a module."""
    monkeypatch.setattr(cohort_figures, "to_svg", undrawn)


def rows_of(text: str) -> list[Any]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    rows: list[Any] = json.loads(found[1])
    return rows


# -- what it says ----------------------------------------------------------------------------------


def test_the_counts_come_first(text: str, results: list[Result]) -> None:
    failed = sum(bool(result.error) for result in results)
    assert failed == 7
    assert Page(text).of("h1") == [f"{CASES - failed} of {CASES} cases have a prediction; 7 failed"]
    assert "research software, not for clinical use" in text
    assert "random weights, for tests alone" in Page(text).of("p")


def test_failures_and_warnings_are_grouped_by_cause(text: str, results: list[Result]) -> None:
    cells = Page(text).of("td")
    for cause in (
        "…_RNA.json: expected at most … of … genes missing, found … missing",
        "…_CD.json: expected a JSON file, found no file",
        "…_HE.tif: expected tissue, found none",
        "…_CD.json: age: … lies more than … sd from the training mean …",
        "…_CD.json: stage: expected one of t1hg, tahg, found …",
    ):
        assert cells.count(cause) == 1
    place = cells.index("…_RNA.json: expected at most … of … genes missing, found … missing")
    with_it = [result.case_id for result in results if "genes missing" in result.error]
    assert cells[place - 1] == str(len(with_it)) == "3"
    assert cells[place + 1] == ", ".join(with_it)


def test_risks_that_no_training_patient_had_are_listed(
    text: str, bundle: Bundle, results: list[Result]
) -> None:
    low, high = bundle.mapping.risks[[0, -1]]
    risks = np.array([result.risk for result in results if result.risk is not None])
    cells = Page(text).of("td")
    counts = {}
    for name, count in (("below", (risks < low).sum()), ("above", (risks > high).sum())):
        counts[name] = int(count)
        cause = f"risk {name} that of every training patient"
        assert (cause in cells) == (count > 0)
        if count:
            assert cells[cells.index(cause) - 1] == str(count)
    assert sum(counts.values()) > 0


def test_the_groups_are_thirds_of_the_training_risks(
    text: str, bundle: Bundle, results: list[Result]
) -> None:
    risks = np.array([result.risk for result in results if result.risk is not None])
    lower, upper = np.quantile(bundle.mapping.risks, [1 / 3, 2 / 3])
    cells = Page(text).of("td")
    for members in (risks < lower, (risks >= lower) & (risks < upper), risks >= upper):
        share = f"{100 * members.mean():.0f} %"
        time = f"{np.median(bundle.mapping.time(risks[members])):.1f}"
        place = cells.index(time)
        assert cells[place - 2 : place] == [str(members.sum()), share]


def test_the_table_has_a_row_a_case_in_order(text: str, results: list[Result]) -> None:
    rows = rows_of(text)
    assert [row[0] for row in rows] == [result.case_id for result in results]
    for row, result in zip(rows, results, strict=True):
        assert row[10] == result.error
        assert row[11] == [warning for warning in result.warnings if "tests alone" not in warning]
        assert any(cause.startswith("f") for cause in row[12]) == bool(result.error)
        assert any(w.startswith("w") for w in row[12]) >= bool(row[11])
        if result.error:
            assert row[1:9] == [None] * 8
        else:
            assert row[1] == pytest.approx(result.time, abs=0.05)
            assert row[5:9] == pytest.approx(
                [result.survival.get(months) for months in SURVIVAL_MONTHS], abs=5e-4
            )


@pytest.mark.usefixtures("no_pictures")
def test_an_interval_that_the_follow_up_cuts_says_so(bundle: Bundle, tmp_path: Path) -> None:
    (result,) = make_results(bundle, 1)
    tau = bundle.mapping.tau
    cut = result.model_copy(update={"interval": (1.25, tau)})
    whole = result.model_copy(update={"interval": (1.25, tau / 2)})
    page = write_cohort_report(tmp_path, [cut, whole], make_run(), bundle)
    rows = rows_of(page.read_text(encoding="utf-8"))
    assert [row[2] for row in rows] == [
        [1.25, f"1.2 – {tau:.1f}+"],
        [1.25, f"1.2 – {tau / 2:.1f}"],
    ]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("case C1: /a/b/C1_RNA.json: expected valid JSON", "…_RNA.json: expected valid JSON"),
        (
            "rna.json: 12 genes set to the training mean: A1BG, TP53 and 4 more",
            "rna.json: … genes set to the training mean",
        ),
        ("1 genes set to the training mean: TP53", "… genes set to the training mean"),
        ("age: expected a number, found 'old'", "age: expected a number, found …"),
        ("case C1: unexpected KeyError: 'C1'", "unexpected KeyError: …"),
        ("s.svs: pixel size none; 0.25 µm is assumed", "s.svs: pixel size none; … µm is assumed"),
        (
            "/d/C1_CD.json: age: 104 is outside 31 to 92, the range of the training cohort",
            "…_CD.json: age: … is outside …, the range of the training cohort",
        ),
        ("age: 7200 lies 10 sd from 70.9 to 71.6", "age: … lies … sd from …"),
        ("stage: expected t1hg, tahg, found x", "stage: expected t1hg, tahg, found x"),
    ],
)
def test_a_cause_is_what_messages_have_in_common(message: str, cause: str) -> None:
    assert cause_of(message, "C1") == cause
    assert cause_of(message.replace("C1", "A:2"), "A:2") == cause


def test_the_most_frequent_cause_is_first_and_counts_a_case_once() -> None:
    causes = group_messages(
        [("A", ["x.tif: bad"]), ("B", ["slide 1 dark", "slide 2 dark"]), ("C", ["slide 7 dark"])]
    )
    assert [(cause.text, cause.cases) for cause in causes] == [
        ("slide … dark", [1, 2]),
        ("x.tif: bad", [0]),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "slide: embeddings are 3 times as far",
        "case {0}: /data/{0}_CD.json: expected a JSON file, found no file",
        "case {0}: /data/{0}/slide.tif: expected a slide, found a blob",
        "{0}.tif: bad",
    ],
)
def test_short_ids_are_found_as_a_whole(text: str) -> None:
    (cause,) = group_messages((own, [text.format(own)]) for own in ("a", "b", "e", "E1"))
    assert cause.cases == [0, 1, 2, 3]


@pytest.mark.usefixtures("no_pictures")
def test_embeddings_unlike_those_of_training_have_a_line_of_their_own(
    bundle: Bundle, tmp_path: Path
) -> None:
    """As do ages, and both are counted by cases."""
    far = "slide: embeddings are {} times as far from the training cohort's as any of its own cases"
    old = "/data/{0}_CD.json: age: {1} is outside 31 to 92, the range of the training cohort"
    results = make_results(bundle, 4)
    warnings = [[far.format(2.1)], [far.format(31.0), old.format("P0001", 101)], [], []]
    told = [
        result.model_copy(update={"warnings": tuple(own)})
        for result, own in zip(results, warnings, strict=True)
    ]
    page = write_cohort_report(tmp_path, told, make_run(), bundle)
    cells = Page(page.read_text(encoding="utf-8")).of("td")
    place = cells.index(far.format("…"))
    assert (cells[place - 1], cells[place + 1]) == ("2", "P0000, P0001")
    place = cells.index("…_CD.json: age: … is outside …, the range of the training cohort")
    assert (cells[place - 1], cells[place + 1]) == ("1", "P0001")


@pytest.mark.usefixtures("no_pictures")
def test_what_cannot_be_compared_with_training_is_named(
    bundle: Bundle, tmp_path: Path, text: str
) -> None:
    unknown = "Not compared with those of training, whose range this bundle does not know: {}."
    assert unknown.format("embeddings, clinical numbers") in text
    ages = ClinicalRange(numbers=(NumberRange(name="age", least=31, most=92),), missing=())
    manifest = bundle.manifest.model_copy(update={"clinical_range": ages})
    embeddings = EmbeddingRange(np.zeros(6), np.eye(6)[:2], 1.0, 1.0, 50.0, 1.0)
    results = make_results(bundle, 3)
    for known, left in (
        (replace(bundle, manifest=manifest), "embeddings"),
        (replace(bundle, embedding_range=embeddings), "clinical numbers"),
        (replace(bundle, manifest=manifest, embedding_range=embeddings), ""),
    ):
        page = write_cohort_report(tmp_path, results, make_run(), known)
        said = page.read_text(encoding="utf-8")
        assert (unknown.format(left) in said) == bool(left)
        assert ("Not compared" in said) == bool(left)


# -- what it is ------------------------------------------------------------------------------------


def test_the_page_stands_on_its_own(text: str) -> None:
    page = Page(text)
    assert all(target.startswith("#") for target in page.loads)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)|@import", text))
    assert page.tags.count("svg") == 3
    assert page.tags.count("script") == 2
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in text


@pytest.mark.usefixtures("no_pictures")
def test_what_a_file_is_called_cannot_become_code(bundle: Bundle, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><b>"
    result = Result(case_id=evil, error=f"case x: {evil}: expected tissue, found none")
    page = write_cohort_report(tmp_path, [result], make_run(manifest=evil), bundle)
    text = page.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in text and "<b>" not in text
    assert rows_of(text)[0][0] == evil


def test_the_same_run_gives_the_same_page(
    tmp_path: Path, bundle: Bundle, results: list[Result], text: str
) -> None:
    again = write_cohort_report(tmp_path, results, make_run(), bundle)
    assert again.read_text(encoding="utf-8") == text


def test_a_run_without_a_prediction(tmp_path: Path, bundle: Bundle) -> None:
    failed = [Result(case_id=f"C{i}", error=f"case C{i}: no slide") for i in range(3)]
    path = write_cohort_report(tmp_path, failed, make_run(workers=1), bundle)
    text = path.read_text(encoding="utf-8")
    assert Page(text).of("h1") == ["0 of 3 cases have a prediction; 3 failed"]
    assert "<svg" not in text
    assert "worker</li>" not in text and "</strong> worker on cpu" in text


@pytest.mark.usefixtures("no_pictures")
def test_the_cells_of_a_row_are_the_cases(tmp_path: Path) -> None:
    whole = build_bundle()
    results = make_results(whole, 30)
    page = write_cohort_report(tmp_path, results, make_run(), whole)
    rows = rows_of(page.read_text(encoding="utf-8"))
    for row, result in zip(rows, results, strict=True):
        if not result.error:
            assert row[3] == pytest.approx(result.risk, abs=5e-4)
            assert row[4] == pytest.approx(result.risk_percentile, abs=0.5)


@pytest.mark.usefixtures("no_pictures")
def test_the_bundles_notice_is_no_warning_of_a_case(tmp_path: Path) -> None:
    whole = build_bundle()
    risk = float(np.median(whole.mapping.risks))
    results = [r.model_copy(update={"risk": risk}) for r in make_results(whole, 3)]
    text = write_cohort_report(tmp_path, results, make_run(), whole).read_text(encoding="utf-8")
    assert "<strong>0</strong> with warnings" in text


@pytest.mark.usefixtures("no_pictures")
def test_the_largest_training_risk_is_not_beyond_training(tmp_path: Path) -> None:
    whole = build_bundle()
    ends = [float(r) for r in whole.mapping.risks[[0, -1]]]
    results = [
        r.model_copy(update={"risk": e}) for r, e in zip(make_results(whole, 2), ends, strict=True)
    ]
    text = write_cohort_report(tmp_path, results, make_run(), whole).read_text(encoding="utf-8")
    assert "that of every training patient" not in text


def test_figures_show_shares_and_means(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(cohort_figures, "to_svg", lambda figure: drawn.append(figure) or "")
    mapping = build_bundle().mapping
    low, high = np.quantile(mapping.risks, [0.1, 0.3])
    groups = {"low": np.array([low, high]), "middle": np.array([]), "high": np.array([])}
    cohort_figures.curves_figure(groups, mapping, "months")
    curve, training = drawn[0].axes[0].lines
    expected = mapping.survival([low, high], curve.get_xdata()).mean(axis=0)
    np.testing.assert_allclose(curve.get_ydata(), expected)
    assert training.get_drawstyle() == "steps-post"
    cohort_figures.percentiles_figure(np.array([5.0, 15.0, 15.0, 95.0]))
    (bars,) = drawn[1].axes[0].patches
    np.testing.assert_allclose(bars.get_data().values, [0.25, 0.5, *[0] * 7, 0.25])


@pytest.mark.usefixtures("no_pictures")
def test_a_risk_at_a_third_is_of_the_group_above(bundle: Bundle, tmp_path: Path) -> None:
    third = float(np.quantile(bundle.mapping.risks, 1 / 3))
    (result,) = make_results(bundle, 1)
    failed = Result(case_id="C1", modalities=("slide",), error="case C1: no slide")
    results = [result.model_copy(update={"risk": third, "modalities": ("rna",)}), failed]
    page = write_cohort_report(tmp_path, results, make_run(), bundle)
    text = page.read_text(encoding="utf-8")
    cells = Page(text).of("td")
    middle = cells.index("100 %")
    assert cells[middle - 4 : middle] == ["0", "0 %", "–", "1"]  # none is in the group below
    rows = Page(text).of("th")
    assert "rna" in rows and "slide" not in rows


@pytest.mark.usefixtures("no_pictures")
def test_the_page_says_how_long_the_run_took(tmp_path: Path) -> None:
    whole = build_bundle()
    text = write_cohort_report(tmp_path, make_results(whole, 3), make_run(), whole).read_text(
        encoding="utf-8"
    )
    assert "last session 1.50 h" in text
