"""Policies as files: what is written is read back, and what is wrong is named."""

import tomllib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.control.policy_file import check_policy, load_policies, policy_text, read_policy, write_policy
from demur.core.errors import BadInputError
from demur.core.policy import Certificate, Policy, Rule, SignalSource

IDS = {"safety": 7, "humanizing": 8, "respond": 9}
SOURCE = SignalSource(name="refusal-tokens", identity="m@12345678+abcd[greedy]", token_ids=IDS)
HOSTILE = 'ends"\n[rules.safety]\nthreshold = 0\n"""\\\x00\x7f\u2028\u202e\U0001f600é\r\n\t# no comment'
CERTIFICATE = Certificate(
    target="over_refusal<=0.05", metric="over_refusal", category="all", relation="<=", value=0.05, delta=0.1, n=259,
    achieved=0.03, method="m", data_sha256="ab", data="built-in",
)  # fmt: skip


def policy(**changes):
    fields = {
        "name": "default",
        "source": SOURCE,
        "rules": {"safety": Rule(threshold=0.1, wording=HOSTILE), "humanizing": Rule(action="guide")},
        "certificates": (CERTIFICATE, CERTIFICATE),
        "reference": {"safety": tuple(i / 32 for i in range(33))},
        "created": datetime(2026, 11, 21, 12, 30, tzinfo=UTC),
    }
    return Policy(**{**fields, **changes})


def test_a_policy_is_read_back_as_it_was_written(tmp_path):
    write_policy(tmp_path / "p.toml", policy(), manifest={"command": ["demur", "calibrate\n"], "x": HOSTILE})
    assert read_policy(tmp_path / "p.toml") == policy()
    assert "# command: " in (tmp_path / "p.toml").read_text(encoding="utf-8")


@given(
    wording=st.text(),
    key=st.text(min_size=1),
    threshold=st.floats(0, 1),
    bias=st.floats(allow_nan=False, allow_infinity=False),
    created=st.datetimes(timezones=st.just(timezone(timedelta(hours=2)))),
)
@settings(max_examples=120, deadline=None)
def test_any_text_and_number_survives(tmp_path_factory, wording, key, threshold, bias, created):
    source = SignalSource(name=wording, identity=wording)
    rules = {key: Rule(threshold=threshold, wording=wording)}
    one = Policy(name="x", source=source, rules=rules, bias=bias, created=created)
    assert Policy.model_validate(tomllib.loads(policy_text(one))) == one
    path = tmp_path_factory.getbasetemp() / "any.toml"
    write_policy(path, one, manifest={key: wording})
    assert read_policy(path) == one


def test_lone_surrogates_are_refused_before_anything_is_written(tmp_path):
    source = SOURCE.model_construct(name="\ud800", identity="i", token_ids={})
    with pytest.raises(BadInputError, match="surrogate"):
        write_policy(tmp_path / "p.toml", policy().model_copy(update={"source": source}))
    assert not list(tmp_path.iterdir())


WRONG = [
    ('name = "default"', "", "name: Field required"),
    ('name = "default"', 'name = "a b"', "letters, digits"),
    ('name = "default"', 'name = "a/../b"', "letters, digits"),
    ('kind = "per_category"', 'kind = "magic"', "kind: "),
    ("temperature = 1.0", "temperature = 0.0", "temperature: "),
    ("threshold = 0.5", "threshold = nan", "threshold: "),
    ("threshold = 0.5", "threshold = inf", "threshold: "),
    ("threshold = 0.5", "threshold = 1.5", "threshold: .* got 1.5"),
    ("threshold = 0.5", "threshold = true", "threshold: .* got True"),
    ("threshold = 0.5", 'threshold = "0.5"', "threshold: "),
    ("bias = 0.0", "bias = -inf", "bias: "),
    ("threshold = 0.1", "threshold = -0.1", "rules.safety.threshold: "),
    ('action = "guide"', 'action = "scold"', "rules.humanizing.action: "),
    ("[rules.humanizing]", "[rules.weather]", "unknown category 'weather'"),
    ("bias = 0.0", "bias = 0.0\nbais = 1.0", "bais: Extra inputs"),
    ("safety = 7", "safety = 8", "one id of 0 or more each"),
    ("safety = 7", "safety = 7.5", "source.token_ids.safety: "),
    ("[0.0, 0.03125,", "[0.0, 0.9,", "33 rising numbers"),
    ("[0.0, 0.03125,", "[0.03125,", "33 rising numbers"),
    ("n = 259", 'n = "many"', "certificates.0.n: "),
    ("bias = 0.0", "bias = 2026-01-01", "bias: |plain values"),
    ("bias = 0.0", "bias = ", "expected a policy in TOML"),
]


@pytest.mark.parametrize(("old", "new", "says"), WRONG, ids=[f"{new[:30]}" or "gone" for _, new, _ in WRONG])
def test_what_is_wrong_with_a_file_is_named_in_one_line(tmp_path, old, new, says):
    text = policy_text(policy())
    assert old in text
    (tmp_path / "p.toml").write_text(text.replace(old, new, 1), encoding="utf-8", newline="\n")
    with pytest.raises(BadInputError, match=says) as caught:
        read_policy(tmp_path / "p.toml")
    assert str(tmp_path / "p.toml") in str(caught.value)


def test_files_that_are_no_policies_are_refused(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "large.toml").write_text("#" * (5 * 2**20))
    for name in ("binary.toml", "deep.toml", "large.toml", "absent.toml", "."):
        with pytest.raises(BadInputError, match="expected a policy"):
            read_policy(tmp_path / name)


def test_windows_line_endings_change_nothing(tmp_path):
    (tmp_path / "p.toml").write_bytes(policy_text(policy()).replace("\n", "\r\n").encode())
    assert read_policy(tmp_path / "p.toml") == policy()


def test_a_folder_is_read_by_name_and_names_are_unique(tmp_path):
    for name in ("lenient", "strict"):
        write_policy(tmp_path / f"{name}.toml", policy(name=name))
    (tmp_path / "notes.txt").write_text("no policy")
    assert list(load_policies(tmp_path)) == ["lenient", "strict"]
    assert list(load_policies(tmp_path / "strict.toml")) == ["strict"]
    write_policy(tmp_path / "zz.toml", policy(name="strict"))
    with pytest.raises(BadInputError, match=r"zz\.toml: name: .* as in .*strict\.toml"):
        load_policies(tmp_path)


def test_a_folder_without_policies_says_how_to_make_one(tmp_path):
    with pytest.raises(BadInputError, match="run 'demur calibrate' first"):
        load_policies(tmp_path)


def test_a_policy_for_another_model_is_refused_with_both_names():
    check_policy(policy(), identity=SOURCE.identity, token_ids=IDS)
    check_policy(policy(), identity=SOURCE.identity, token_ids={})
    with pytest.raises(BadInputError, match=r"made for 'm@12345678.*not for 'm@87654321'"):
        check_policy(policy(), identity="m@87654321", token_ids=IDS)
    with pytest.raises(BadInputError, match=r"other control tokens \(safety: 7, now 6\)"):
        check_policy(policy(), identity=SOURCE.identity, token_ids={**IDS, "safety": 6})
