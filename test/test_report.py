"""The report's files: complete, strict JSON, a page that stands on its own and can be looked at."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browse
from made_up_run import make_cases, make_interface, make_results, make_run
from PIL import Image
from toy_bundles import make_bundle

from model.bags import bag_path
from model.case import Prediction
from train import report as reports
from train.calibrate import fit_mapping
from train.cohort import outcomes
from train.ensemble import out_of_fold_risk
from train.estimate import Unavailable
from train.figures import km_figure
from train.fold_table import first_repeat
from train.metrics import harrell_c, logrank_groups, risk_groups
from train.report import training_report, validation_report, write_report

RESAMPLES = 10
PROVENANCE = {"version": "0.1.0", "commit": "abc", "date": "2026-11-21", "config": {"seed": 0}}


def make_report(folder, *, n=176, unit="months", repeats=1, validated=True):
    cases, log_hazard = make_cases(n, months_per_unit=12 if unit == "years" else 1)
    draw = np.random.default_rng(5)
    risk = log_hazard + 0.8 * draw.normal(size=n)
    return training_report(
        make_run(folder, cases, unit=unit),
        make_results(cases, risk, repeats=repeats, validated=validated),
        baselines=[
            ("Kaplan-Meier", np.zeros(n)),
            ("clinical <b>Cox</b>", log_hazard + 4 * draw.normal(size=n)),
            ("late fusion", log_hazard + 1.5 * draw.normal(size=n)),
        ],
        provenance=PROVENANCE,
        resamples=RESAMPLES,
    )


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class Page(HTMLParser):
    """Collects what a page would load, the text of its headings and how many figures it has."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.headings = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster"):
                self.loads.append(value)

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ("h1", "h2") and data.strip():
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report = make_report(folder)
    page = write_report(folder, report)
    return report, read(folder / "report.json"), page.read_text(encoding="utf-8")


# ---------------------------------------------------------------- the files


def test_the_verdict_comes_first(written):
    report, numbers, page = written
    assert next(iter(numbers)) == "verdict"
    assert numbers["verdict"]["sentence"] == report.verdict.sentence
    assert re.match(r"The model (beats|does not beat) the best simple ", report.verdict.sentence)
    assert Page(page).headings[0] == report.verdict.sentence
    assert "research software, not for clinical use" in page


def test_the_json_has_every_number(written):
    report, numbers, _ = written
    metrics = {row["name"]: row for row in numbers["evaluation"]["metrics"]}
    own = report.evaluation.metrics[0].value
    assert metrics["harrell_c"]["value"] == {
        "value": own.value, "low": own.low, "high": own.high, "n": 176, "events": 71,
        "patients": None,
    }  # fmt: skip
    assert numbers["baselines"][0]["name"] == "Kaplan-Meier"
    assert numbers["evaluation"]["resamples"] == RESAMPLES
    assert len(numbers["evaluation"]["calibration"]) == 5
    assert list(numbers["evaluation"]["centres"]) == ["3A", "3B"]
    assert numbers["folds"][0]["log"][29]["epoch"] == 29
    assert numbers["settings"]["fit.learning_rate"] == 1e-3
    assert numbers["provenance"] == PROVENANCE
    assert "figures" not in numbers


def test_the_page_stands_on_its_own(written):
    _, _, text = written
    page = Page(text)
    assert all(target.startswith("#") for target in page.loads)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "default-src 'none'" in text
    outside = re.findall(r"url\(([^)]*)\)|@import", text)
    assert all(target.startswith("#") for target in outside)
    assert page.tags.count("svg") == 5
    assert "<b>Cox</b>" not in text and "clinical &lt;b&gt;Cox&lt;/b&gt;" in text


@pytest.mark.slow
def test_the_same_run_gives_the_same_page_and_no_other_file(tmp_path, written):
    again = write_report(tmp_path, make_report(tmp_path)).read_text(encoding="utf-8")
    # The settings name the run's folder.
    different = [
        pair
        for pair in zip(again.splitlines(), written[2].splitlines(), strict=True)
        if len(set(pair)) > 1
    ]
    assert all(str(tmp_path) in line for line, _ in different)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


@pytest.mark.slow
def test_years_and_no_validation_losses(tmp_path):
    report = make_report(tmp_path, unit="years", validated=False, n=120)
    text = write_report(tmp_path, report).read_text(encoding="utf-8")
    assert "AUC at 3 years" in text and "months, %" in text
    assert "Training loss by epoch" in text


@pytest.mark.slow
def test_a_cohort_too_small_to_measure_says_so(tmp_path):
    cases, _ = make_cases(14, seed=3)
    results = make_results(cases, np.linspace(-1, 1, 14), k=2)
    report = training_report(
        make_run(tmp_path, cases),
        results,
        baselines=[("late fusion", np.zeros(14))],
        provenance={},
        resamples=RESAMPLES,
    )
    text = write_report(tmp_path, report).read_text(encoding="utf-8")
    metrics = {row.name: row for row in report.evaluation.metrics}
    assert isinstance(metrics["brier"].value, Unavailable)
    assert metrics["brier"].value.reason.startswith("without fold 1: calibration: expected at leas")
    assert "cannot be computed: without fold 1" in text
    assert "calibration cannot be shown" in text
    assert set(report.figures) == {"forest", "learning"}
    assert read(tmp_path / "report.json")["evaluation"]["calibration"] == []


# ---------------------------------------------------------------- external validation


@pytest.mark.slow
def test_an_external_validation_uses_the_bundle_as_it_is(tmp_path):
    training, training_risk = make_cases(150, seed=1)
    outcome = outcomes(training)
    mapping = fit_mapping(
        "rmst",
        event=outcome.event,
        time=outcome.time,
        risk=training_risk,
        warn=lambda _: None,
    )
    bundle = replace(make_bundle(), mapping=mapping)
    cases, risk = make_cases(80, seed=2)
    predictions = [
        Prediction(case.case_id, float(own), 1.0, "months", {}, None, (0.5, 2.0), ("slide", "rna"))
        for case, own in zip(cases, risk, strict=True)
    ]
    report = validation_report(
        bundle, make_interface(), cases, predictions, notes=["3 are left out"], resamples=RESAMPLES
    )
    text = write_report(tmp_path, report).read_text(encoding="utf-8")
    assert report.verdict.sentence.startswith("The risks order these patients better than chance")
    (halves,) = [row for row in report.evaluation.metrics if row.name == "logrank_2_groups"]
    groups = (risk >= np.median(training_risk)).astype(int)
    assert halves.value.value == logrank_groups(groups, outcomes(cases))
    assert report.folds == [] and report.baselines == []
    assert set(report.figures) == {"halves", "thirds", "calibration"}
    assert "nothing was fitted to these patients" in text
    assert "the training cohort's out-of-fold risks" in text
    assert "external validation" in text
    assert "Note: 3 are left out." in text
    assert report.cohort[0].slide == 80  # some have a bag without a slide


def test_a_risk_group_may_be_empty():
    """An external cohort may have nobody at high risk."""
    outcome = outcomes(make_cases(30)[0])
    figure = km_figure(np.zeros(30, dtype=int), outcome, 2, "months")
    assert "low risk:" in figure and "high risk:" not in figure


# ---------------------------------------------------------------- looked at

# A frame as wide as a phone or a screen reports on the page inside it.
FRAME = """<!DOCTYPE html>
<iframe src="report.html" style="width:%dpx;height:900px;border:0"></iframe>
<script>onload = () => {
  const inside = document.querySelector("iframe").contentWindow, page = inside.document;
  const wide = figure => figure.getBoundingClientRect().width;
  document.title = JSON.stringify({
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    height: page.documentElement.scrollHeight,
    loaded: inside.performance.getEntriesByType("resource").length,
    figures: [...page.querySelectorAll("svg")].map(wide)});
}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(tmp_path, width):
    page = write_report(tmp_path, make_report(tmp_path, repeats=3))
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % width)
    title = re.search("<title>(.*?)</title>", browse(tmp_path, "--dump-dom", frame.as_uri()))
    seen = json.loads(title[1])
    assert seen["overflow"] == 0
    assert seen["loaded"] == 0
    assert seen["height"] > 2500
    assert len(seen["figures"]) == 5 and min(seen["figures"]) > 330

    shot = tmp_path / "report.png"
    browse(tmp_path, f"--screenshot={shot}", f"--window-size={max(width, 500)},3000", page.as_uri())
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # Every stretch of the page has ink, and the figures' blue and red are there.
    assert all((band.min(axis=2) < 90).mean() > 0.002 for band in np.array_split(picture[:2400], 6))
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(picture - colour).max(axis=2) < 12).sum() > 300


# ---------------------------------------------------------------- without figures


def test_the_verdict_says_that_a_baseline_is_lacking(tmp_path: Path, quick_training: None) -> None:
    cases, risk = make_cases(60)
    found = training_report(
        make_run(tmp_path, cases),
        make_results(cases, risk),
        baselines=[("late fusion", np.zeros(60))],
        left_out=["joint Cox: did not converge"],
        provenance={},
        resamples=10,
    )
    assert "the best simple baseline that could be fitted (late fusion)" in found.verdict.sentence
    assert "joint Cox: did not converge" in found.notes


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0009, "< 0.001"), (0.001, "= 0.001"), (0.0051, "= 0.005"), (0.5, "= 0.500")],
)
def test_a_p_value_has_three_decimals(value: float, text: str) -> None:
    assert reports._p_value(value, "= ") == text


def test_thirds_are_three_groups(
    tmp_path: Path, quick_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    monkeypatch.setattr(
        reports, "km_figure", lambda groups, outcome, n, unit: drawn.update({n: set(groups)}) or ""
    )
    make_report(tmp_path, n=90)
    assert drawn == {2: {0, 1}, 3: {0, 1, 2}}


def test_a_bag_counts_where_the_slide_is_gone(tmp_path: Path, quick_training: None) -> None:
    cases, risk = make_cases(60)
    cases = [replace(case, case=replace(case.case, slides=())) for case in cases]
    run = make_run(tmp_path, cases)
    run.bags.directory.mkdir(parents=True, exist_ok=True)
    for case in cases[:7]:
        bag_path(run.bags.directory, case.case_id).touch()
    found = training_report(
        run, make_results(cases, risk), baselines=[], provenance={}, resamples=0
    )
    assert found.cohort[0].slide == 7


def test_the_numbers_are_those_of_the_run(tmp_path, quick_training):
    cases, log_hazard = make_cases(90)
    results = make_results(cases, log_hazard, repeats=2)
    report = training_report(
        make_run(tmp_path, cases), results, baselines=[], provenance={}, resamples=0
    )
    risk = out_of_fold_risk(results, len(cases))
    assert report.evaluation.metrics[0].value.value == harrell_c(risk, outcomes(cases))
    groups = np.empty(len(cases), dtype=int)
    for test in first_repeat(results):
        rest = np.setdiff1d(np.arange(len(cases)), test)
        groups[test] = risk_groups(risk[test], train_risk=risk[rest], n_groups=2)
    (halves,) = [row for row in report.evaluation.metrics if row.name == "logrank_2_groups"]
    assert halves.value.value == logrank_groups(groups, outcomes(cases))
    assert report.verdict.beats is None


def test_cases_are_not_called_patients(tmp_path, quick_training):
    """Two cases of each patient, in a fold each."""
    cases, log_hazard = make_cases(90)
    pairs = [replace(case, patient=f"Q{i // 2}") for i, case in enumerate(cases)]
    results = make_results(pairs, log_hazard)
    report = training_report(
        make_run(tmp_path, pairs), results, baselines=[], provenance=PROVENANCE, resamples=5
    )
    page = write_report(tmp_path, report).read_text()
    assert "<strong>90</strong> cases of <strong>45</strong> patients" in page
    assert (report.evaluation.n, report.evaluation.patients) == (90, 45)
    assert (report.cohort[0].n, report.cohort[0].patients) == (90, 45)
    assert str(report.evaluation.metrics[0].value).count("90 cases of 45 patients") == 1
    assert "the test wants one case of each patient, and some have several" in page


def test_an_interval_that_is_lacking_is_said(tmp_path, quick_training):
    cases, log_hazard = make_cases(90)
    results = make_results(cases, log_hazard)
    report = training_report(
        make_run(tmp_path, cases), results, baselines=[], provenance={}, resamples=0
    )
    page = write_report(tmp_path, report).read_text()
    c = f"{report.evaluation.metrics[0].value.value:.3f}"
    assert f'{c} <span class="ci">no interval</span>' in page
    assert "0.500 " not in page  # of equal risks none is asked for
    centre = report.evaluation.centres["3A"]
    assert f"<th>3A</th><td>{centre.n}</td><td>{centre.events}</td><td>" in page
