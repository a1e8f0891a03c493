"""The page about a cohort, used and looked at in a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browse
from made_up_cohort import make_results, make_run
from PIL import Image
from small_bundles import build_bundle

from model.cohort_report import write_cohort_report

# A frame as wide as a phone or a screen uses the page inside it, and reports what it shows.
FRAME = """<!DOCTYPE html>
<iframe src="report.html" style="width:%dpx;height:900px;border:0"></iframe>
<script>onload = () => {
  const inside = document.querySelector("iframe").contentWindow, page = inside.document;
  const first = () => page.querySelectorAll("#cases tbody tr").length
    ? page.querySelector("#cases tbody tr td").textContent : null;
  const view = () => [page.querySelectorAll("#cases tbody tr").length, first(),
    page.getElementById("status").textContent];
  const press = selector => (page.querySelector(selector).click(), view());
  const search = text => {
    const field = page.getElementById("search");
    field.value = text;
    field.dispatchEvent(new inside.Event("input"));
    return view();
  };
  document.title = JSON.stringify({
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    loaded: inside.performance.getEntriesByType("resource").length,
    figures: [...page.querySelectorAll("svg")].map(f => f.getBoundingClientRect().width),
    start: view(),
    more: press("#more"),
    by_time: press('th[data-column="1"] button'),
    by_time_down: press('th[data-column="1"] button'),
    failed: press('button[data-filter="f"]'),
    one_cause: press('button[data-filter="f0"]'),
    found: (press('button[data-filter=""]'), search("p0123")),
    by_message: search("AGE:"),
    nothing: search("no such case")});
}</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    bundle = build_bundle()
    results = make_results(bundle, 250)
    page = write_cohort_report(tmp_path, results, make_run(), bundle)
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % width)
    title = re.search("<title>(.*?)</title>", browse(tmp_path, "--dump-dom", frame.as_uri()))
    assert title is not None
    seen = json.loads(title[1])
    assert (seen["overflow"], seen["loaded"]) == (0, 0)
    assert len(seen["figures"]) == 3 and min(seen["figures"]) > 300
    assert seen["start"] == [200, "P0000", "200 of 250 cases shown"]
    assert seen["more"] == [250, "P0000", "250 of 250 cases shown"]
    times = {result.case_id: result.time for result in results if result.time is not None}
    rounded = {case_id: round(time, 1) for case_id, time in times.items()}
    assert rounded[seen["by_time"][1]] == min(rounded.values())
    assert rounded[seen["by_time_down"][1]] == max(rounded.values())
    failed = [result.case_id for result in results if result.error]
    assert seen["failed"] == [len(failed), failed[0], "15 of 15 cases shown, 250 in all"]
    assert seen["one_cause"][0] == 5
    assert seen["found"] == [1, "P0123", "1 of 1 cases shown, 250 in all"]
    assert seen["by_message"][0] == sum("age:" in " ".join(r.warnings) for r in results)
    assert seen["nothing"] == [0, None, "No case has this."]

    shot = tmp_path / "report.png"
    browse(tmp_path, f"--screenshot={shot}", f"--window-size={max(width, 500)},2600", page.as_uri())
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    # Every stretch of the page has ink, and the colours of the low and the high group are there.
    assert all((band.min(axis=2) < 110).mean() > 0.002 for band in np.array_split(picture, 6))
    for colour in ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(picture - colour).max(axis=2) < 12).sum() > 100
