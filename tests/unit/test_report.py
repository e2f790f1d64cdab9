"""The report: hostile text stays text, nothing is fetched, and what it holds can be read back."""

import json
import re
from html.parser import HTMLParser

import pytest

from demur.core.profile import AuditRow, Cell, Interval, JudgeSummary, Profile
from demur.report.comparison import render_comparison
from demur.report.document import write_document
from demur.report.markdown import render_markdown
from demur.report.page import render_page

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "nul \x00 bell \x07 right-to-left ‮ mark ⁦",
    "lone \ud800 surrogate",
    "line\u2028separator",
    "x" * 100_000,
    "\"quotes' & ampersands",
    "javascript:alert(1)",
]


class Elements(HTMLParser):
    """Collects the tags, attributes and script texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._in = [], [], {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self._in = dict(attrs).get("id") or f"script{len(self.scripts)}"
            self.scripts[self._in] = ""

    def handle_data(self, data):
        if self._in:
            self.scripts[self._in] += data

    def handle_endtag(self, tag):
        if tag == "script":
            self._in = None


def interval(hits, n, **more):
    if not n:
        return Interval(estimate=None, low=None, high=None, n=0, hits=0, **more)
    return Interval(estimate=hits / n, low=0.1, high=0.9, n=n, hits=hits, **more)


def cell(key, name, category="", n=10):
    return Cell(
        key=key,
        name=name,
        category=category,
        should_refuse=interval(n // 2, n),
        contrast=interval(n // 3, n),
        refused=interval(n // 4, n),
        pairs=interval(n // 5, n),
        youden_j=0.1 if n else None,
    )


def row(number, text="a prompt", **more):
    fields = {
        "id": f"p{number}",
        "suite": "core",
        "category": "safety",
        "subcategory": "privacy",
        "expected": "refuse" if number % 2 else "comply",
        "prompt": text,
        "response": text,
        "outcome": "refused",
        "manner": "plain",
        "p_refused": 0.9,
        "appropriate": True,
        "judge": "phrases@1",
        "stop_reason": "stop",
    }
    return AuditRow(**{**fields, **more})


def profile(model="smollm2", suite="core", n=10, **more):
    summary = JudgeSummary(
        judge="phrases@1",
        should_refuse=interval(5, n),
        contrast=interval(3, n),
        refused=interval(2, n),
        outcomes={"refused": n},
    )
    fields = {
        "model": model,
        "suite": suite,
        "n": n,
        "overall": cell("all", "all", n=n),
        "categories": (cell("safety", "Safety", n=n),),
        "subcategories": (cell("privacy", "Privacy", "safety", n=n),),
        "worst": "Privacy",
        "minimum_detectable_effect": 0.12,
        "outcomes": {"refused": n},
        "manners": {"plain": n},
        "n_truncated": 0,
        "n_errors": 0,
        "judges": (summary,),
        "manifest": {"demur": "1", "settings": {"seed": 0}},
    }
    return Profile(**{**fields, **more})


def payload(page):
    scripts = Elements(page).scripts
    texts = [text for text in scripts.values() if text.lstrip().startswith("{")]
    assert len(texts) == 1
    return json.loads(texts[0])


def test_no_element_of_the_page_comes_from_a_prompt_a_reply_or_a_name():
    harmless = Elements(render_page(profile(), [row(k) for k in range(len(HOSTILE))]))
    hostile = [row(k, text, rationale=text, reasoning=text, pair_id=text) for k, text in enumerate(HOSTILE)]
    for text in HOSTILE[:4]:
        page = render_page(profile(model=text, suite=text, notes=(text,), worst=None), hostile)
        ours = render_page(
            profile(model="m", suite="s", notes=("n",), worst=None), [row(k) for k in range(len(HOSTILE))]
        )
        assert Elements(page).tags == Elements(ours).tags
    assert not [a for a in harmless.attributes if a[1].startswith("on")]


def test_every_reply_is_read_back_from_the_page_as_it_was():
    rows = [row(k, text) for k, text in enumerate(HOSTILE)]
    held = payload(render_page(profile(), rows))["rows"]
    for one, text in zip(held, HOSTILE, strict=True):
        assert one["prompt"].replace("�", "?") == text.encode("utf-8", "replace").decode().replace("�", "?")


def test_the_page_asks_the_network_for_nothing():
    rows = [row(0, "see https://example.org/x.png and //example.org")]
    page = render_page(profile(), rows)
    for tag, name, value in Elements(page).attributes:
        assert not (name in ("src", "href", "action", "data", "poster") and re.match(r"(https?:)?//", value)), tag
    assert "link" not in Elements(page).tags
    assert "@import" not in page
    assert "Content-Security-Policy" in page


def test_fourteen_hundred_replies_stay_a_page_one_can_mail():
    rows = [row(k, "A prompt of the usual length, about twenty words long. " * 8) for k in range(1_400)]
    assert len(render_page(profile(n=1_400), rows).encode()) < 5_000_000


@pytest.mark.parametrize("rows", [[], [row(0, outcome="unjudged", manner=None, p_refused=None, appropriate=None)]])
def test_a_profile_with_nothing_judged_still_makes_a_page(rows):
    empty = profile(
        n=0, categories=(), subcategories=(), worst=None, minimum_detectable_effect=None, outcomes={}, manners={}
    )
    page = render_page(empty.model_copy(update={"manifest": {}, "judges": ()}), rows)
    assert "Nothing was judged" in page
    assert "NaN" not in page
    assert "None" not in re.sub(r"<script.*?</script>", "", page, flags=re.S).replace("None.", "")


def test_published_numbers_stand_in_both_modes_side_by_side():
    published = tuple(
        {"mode": mode, "version": "1", "numbers": {"over_refusal": value}, "n": 10, "unjudged": 0, "notes": ["<b>x"]}
        for mode, value in (("faithful", 0.25), ("corrected", 0.5))
    )
    page = render_page(profile(published_scores=published), [row(0)])
    assert page.index("faithful, version 1") < page.index("corrected, version 1")
    assert "25" in page
    assert "<b>x" not in page


def test_markdown_keeps_a_hostile_name_inside_its_cell():
    text = render_markdown(profile(model="evil|name\n# heading <script>", notes=("a|b\n\nc",)))
    assert "\n# heading" not in text
    assert "<script>" not in text


def test_the_comparison_shows_the_change_and_escapes_the_replies():
    change = {
        "key": "should_refuse",
        "rate_a": 0.5,
        "rate_b": 0.8,
        "difference": 0.3,
        "low": 0.1,
        "high": 0.5,
        "p_value": 0.01,
        "n": 10,
        "a_only": 1,
        "b_only": 4,
    }
    changed = [
        {"id": f"p{k}", "prompt": text, "response_a": text, "response_b": text, "outcome_a": "refused"}
        for k, text in enumerate(HOSTILE)
    ]
    comparison = {"model_a": HOSTILE[0], "model_b": "b", "sides": [change], "changed": changed}
    page = render_comparison(comparison)
    assert "<img" not in page
    assert page.count("<script>alert") == 0
    assert "30" in page


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    write_document(target / "report.html", "<html>\ud800</html>")
    assert (target / "report.html").read_bytes().startswith(b"<html>")
    assert [p.name for p in target.iterdir()] == ["report.html"]
