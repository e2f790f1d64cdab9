import re
from base64 import b64encode
from hashlib import sha256

import pytest

from demur.core.errors import BadInputError
from demur.report.escaping import visible
from demur.synthesis.decisions import Decision, DecisionBook, read_decisions
from demur.synthesis.draft import Draft, Vote
from demur.synthesis.policy import SynthesisPolicy
from demur.synthesis.review import render_review, reviewable

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> {{SCRIPT}} \u202e hidden \u2028 \ud800 & done"
POLICY = SynthesisPolicy.model_validate({"name": "<b>x</b>", "text": HOSTILE, "categories": ["a"]})


def draft(number, *, prompt="A cannon of confetti", state="selected"):
    votes = (Vote(judge=HOSTILE, allowed=True, alarming=True, sound=True), Vote(judge="second"))
    return Draft(
        id=f"a-{number:04d}", category="a", seed=HOSTILE, language="English", state=state, prompt=prompt, votes=votes
    )


def page(*drafts, served=True):
    return render_review(POLICY, drafts, {}, served=served, shown=visible, digest="d")


def test_hostile_prompts_stay_data():
    html = page(draft(1, prompt=HOSTILE))
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html
    assert "<b>x" not in html
    assert "\u202e" not in html
    html.encode("utf-8")


def test_only_the_page_s_own_style_and_script_may_run_and_nothing_is_loaded():
    html = page(draft(1))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html).group(1)
    for tag in ("style", "script"):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL).group(1)
        assert f"{tag}-src 'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    without_data = re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.DOTALL)
    assert not re.search(r"https?://|src=|@import|url\(", without_data)
    assert "connect-src 'none'" in page(draft(1), served=False)


def test_selected_prompts_come_before_the_reserve_and_nothing_else_is_shown():
    drafts = [draft(1), draft(2, state="reserve"), draft(3, state="not_allowed"), draft(4, state="duplicate")]
    assert [d.id for d in reviewable(drafts)] == ["a-0001", "a-0002"]


def test_the_last_decision_counts_and_survives_a_torn_line(tmp_path):
    path = tmp_path / "decisions.jsonl"
    book = DecisionBook(path, [draft(1), draft(2)])
    book.add(Decision(id="a-0001", choice="drop", reason="unnatural"))
    book.add(Decision(id="a-0001", choice="keep", prompt="Other words"))
    book.add(Decision(id="a-0002", choice="keep"))
    path.write_text(path.read_text() + '{"id": "a-00')
    again = DecisionBook(path, [draft(1), draft(2)])
    again.add(Decision(id="a-0002", choice="undecided"))
    last = DecisionBook(path, [draft(1), draft(2)])
    assert {name: d.choice for name, d in last.decided.items()} == {"a-0001": "keep"}
    assert last.decided["a-0001"].prompt == "Other words"


def test_a_decision_about_a_stranger_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="reload"):
        DecisionBook(tmp_path / "d.jsonl", [draft(1)]).add(Decision(id="b-1", choice="keep"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"decisions": [{"id": "a"}]}', '{"decisions": [{"id": 1, "choice": "x"}]}']
)
def test_a_file_that_is_no_decisions_is_explained(tmp_path, text):
    path = tmp_path / "decisions.json"
    path.write_text(text)
    with pytest.raises(BadInputError, match=r"decisions\.json"):
        read_decisions(path)


@pytest.fixture
def client(tmp_path):
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from demur.synthesis.review_app import build_review_app

    drafts = [draft(1), draft(2)]
    book = DecisionBook(tmp_path / "d.jsonl", drafts)
    app = build_review_app(lambda: page(*drafts), book, lambda: "2 prompts", token="t" * 20, reviewer="mk")
    return TestClient(app, base_url="http://127.0.0.1:9000")


def test_the_page_needs_the_token_and_a_name_of_this_machine(client):
    good = "/" + "t" * 20 + "/"
    assert client.get(good).status_code == 200
    assert client.get("/wrong/").status_code == client.get("/").status_code == 404
    assert client.get(good, headers={"host": "evil.example"}).status_code == 404
    assert client.get(good, headers={"host": "localhost:9000"}).status_code == 200
    assert client.get(good).headers["cache-control"] == "no-store"


def test_decisions_are_checked_before_they_are_kept(client):
    at = "/" + "t" * 20 + "/decisions"
    assert client.post(at, json={"id": "a-0001", "choice": "keep"}).json()["reviewer"] == "mk"
    assert client.post(at, json={"id": "zzz", "choice": "keep"}).status_code == 409
    assert client.post(at, json={"id": "a-0001", "choice": "burn"}).status_code == 422
    assert client.post(at, content="{", headers={"content-type": "application/json"}).status_code == 422
    assert client.post(at, content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(at, json={"id": "a-0001", "choice": "keep", "prompt": "x" * 70_000}).status_code == 413
    foreign = client.post(at, json={"id": "a-0001", "choice": "drop"}, headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 404
    assert client.post("/" + "t" * 20 + "/finish").json() == {"message": "2 prompts"}
