import json
import re

import pytest
from tests.scan_rows import ANSWER, REFUSAL, batch_of

from demur.report.scan import ScanSummary, render_scan
from demur.scan import summary
from demur.scan.settings import ScanSettings
from demur.scan.tally import Tally
from demur.scan.verdicts import judge_batch
from demur.stats.stratified import Stratum

SETTINGS = ScanSettings(judge="phrases", judge_label="phrases@1", escalate="x:Y", escalate_label="<b>y@1", budget="9")
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\u0000 {{ 7 * 7 }}"


def summarised(batches, **changes):
    tally = Tally()
    for batch in batches:
        tally.add(batch, judge_batch(batch, SETTINGS))
    values = {
        "settings": SETTINGS,
        "n_files": 1,
        "n_bad": 0,
        "second": None,
        "n_calls": 0,
        "before": None,
        "notes": (),
        "manifest": {"kind": "scan"},
    }
    return summary.summarise(tally, summary.Findings(**values | changes)), summary.sampled_rows(tally)


def test_a_log_of_one_unjudged_reply_has_a_report():
    found, rows = summarised([batch_of([""])])
    page = render_scan(found, rows)
    assert found.refused.n in (0, 1)
    assert "The log tells too few times" in page
    assert ScanSummary.model_validate(json.loads(found.model_dump_json())) == found


def test_text_of_strangers_stays_text_wherever_it_stands():
    hostile = batch_of([REFUSAL + HOSTILE, HOSTILE, ANSWER], models=[HOSTILE, "m", HOSTILE], origin=HOSTILE)
    found, rows = summarised([hostile], notes=(HOSTILE,), manifest={"kind": HOSTILE, "inputs": {HOSTILE: HOSTILE}})
    page = render_scan(found, rows)
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count("</script>") == 2
    held = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))
    assert HOSTILE in held["rows"][-1]["response"] + held["rows"][0]["response"]


def test_the_second_judges_sample_makes_the_headline_and_its_strata_are_shown():
    parts = [Stratum(n_rows=2, n_judged=2, n_refused=1)]
    found, rows = summarised([batch_of([REFUSAL, REFUSAL])], second=parts, n_calls=2)
    page = render_scan(found, rows)
    assert found.second.refused.estimate == pytest.approx(0.5)
    assert found.corrected is None
    assert "Refused, by the second judge" in page
    assert "&lt;b&gt;y@1" in page


def test_no_corrected_rate_is_claimed_where_false_alarms_alone_would_explain_it():
    found, _ = summarised([batch_of([REFUSAL] + [ANSWER] * 99)])
    assert found.corrected is None
    assert any("false alarms" in note for note in found.notes)
    often, _ = summarised([batch_of([REFUSAL] * 50 + [ANSWER] * 50)])
    assert often.corrected is not None
