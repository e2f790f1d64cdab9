"""Which policy a request gets: never by silent default, never looser than its key allows."""

import json

import pytest
from tests.serve_models import book, chat, policy

from demur.core.errors import BadInputError
from demur.core.policy import Policy, Rule, SignalSource
from demur.serve.book import load_book, make_book
from demur.serve.calls import parse_call
from demur.serve.choice import choose
from demur.serve.faults import Fault
from demur.serve.keys import ApiKey, KeyRing, check_keys, read_keys
from demur.serve.rehearsal import SOURCE, Rehearsal
from demur.serve.settings import ServerSettings

ANYBODY = ApiKey(name="anybody")
LOOSE = ApiKey(name="loose", may_loosen=True)


def chosen(header=None, key=ANYBODY, held=None, **fields):
    call = parse_call(json.dumps(chat(**fields)).encode(), ServerSettings())
    return choose(call, header, key, {"smollm2": Rehearsal()}, held or book())


def status_of(**given):
    with pytest.raises(Fault) as raised:
        chosen(**given)
    return raised.value.status, raised.value.code


def test_a_policy_can_be_named_in_three_places():
    assert chosen().policy.name == "default"
    assert chosen(model="smollm2@lenient").policy.name == "lenient"
    assert chosen(demur={"policy": "lenient"}).policy.name == "lenient"
    assert chosen(header="lenient").policy.name == "lenient"
    assert chosen(header="lenient", model="smollm2@lenient", demur={"policy": "lenient"}).policy.name == "lenient"


@pytest.mark.parametrize(
    "given",
    [
        {"header": "strict", "model": "smollm2@lenient"},
        {"header": "strict", "demur": {"policy": "lenient"}},
        {"model": "smollm2@lenient", "demur": {"policy": "default"}},
        {"model": "smollm2@", "demur": {"policy": "default"}},
    ],
)
def test_places_that_disagree_are_a_conflict(given):
    assert status_of(**given) == (400, "conflict")


@pytest.mark.parametrize(
    "given", [{"header": ""}, {"header": "Strict"}, {"model": "smollm2@"}, {"demur": {"policy": ""}}]
)
def test_an_unknown_policy_is_never_the_default(given):
    assert status_of(**given) == (400, "unknown_policy")


def test_an_unknown_model_is_not_found():
    assert status_of(model="smollm3") == (404, "model_not_found")
    assert status_of(model="smollm3@strict") == (404, "model_not_found")


def test_a_request_may_tighten_but_not_loosen():
    found = chosen(demur={"thresholds": {"safety": 0.2}})
    assert found.policy.threshold_of("safety") == 0.2
    assert found.policy.threshold_of("humanizing") == 0.5
    assert status_of(demur={"thresholds": {"safety": 0.6}}) == (403, "not_allowed")
    assert chosen(key=LOOSE, demur={"thresholds": {"safety": 0.6}}).policy.threshold_of("safety") == 0.6


def test_the_books_policy_is_untouched_by_a_requests_thresholds():
    held = book()
    chosen(held=held, demur={"thresholds": {"safety": 0.2}})
    assert held.shelves["smollm2"]["default"].policy.threshold_of("safety") == 0.5


def test_an_unknown_category_is_refused():
    assert status_of(demur={"thresholds": {"saftey": 0.1}}) == (400, "unknown_category")
    assert status_of(demur={"thresholds": {"respond": 0.1}}) == (400, "unknown_category")


def test_a_threshold_without_effect_is_refused():
    off = book(policy(safety=Rule(action="answer")))
    assert status_of(held=off, demur={"thresholds": {"safety": 0.1}})[0] == 400
    ruled = book(Policy(name="default", source=SOURCE, kind="category_set", rules={"safety": Rule(threshold=0.5)}))
    assert status_of(held=ruled, demur={"thresholds": {"humanizing": 0.1}})[0] == 400
    for kind in ("two_way", "bias"):
        held = book(Policy(name="default", source=SOURCE, kind=kind))
        assert status_of(held=held, demur={"thresholds": {"safety": 0.1}})[0] == 400


def test_a_summing_policy_has_one_threshold():
    held = book(Policy(name="default", source=SOURCE, kind="sum", threshold=0.5))
    assert chosen(held=held, demur={"thresholds": {"any": 0.3}}).policy.threshold == 0.3
    assert status_of(held=held, demur={"thresholds": {"safety": 0.3}}) == (400, "unknown_category")
    assert status_of(held=held, demur={"thresholds": {"any": 0.7}})[0] == 403


def test_a_key_chooses_among_its_policies_only():
    key = ApiKey(name="web", policies=("strict",), floor="default")
    assert status_of(key=key) == (403, "not_allowed")
    assert status_of(key=key, model="smollm2@lenient") == (403, "not_allowed")
    found = chosen(key=key, model="smollm2@strict")
    assert found.floor.policy.name == "default"


# --- books ----------------------------------------------------------------------------------------------------------


def test_a_policy_for_another_model_is_an_error():
    other = Policy(name="x", source=SignalSource(name="rehearsal", identity="rehearsal@2"))
    with pytest.raises(BadInputError, match="rehearsal@2"):
        make_book([("x.toml", other)], {"m": SOURCE})
    renumbered = SOURCE.model_copy(update={"token_ids": {**SOURCE.token_ids, "safety": 99}})
    with pytest.raises(BadInputError, match=r"x\.toml"):
        make_book([("x.toml", Policy(name="x", source=renumbered))], {"m": SOURCE})


def test_a_book_has_one_default_or_says_what_is_missing():
    assert book(policy("only")).defaults["smollm2"] == "only"
    with pytest.raises(BadInputError, match="--default-policy"):
        book(policy("a"), policy("b"))
    with pytest.raises(BadInputError, match="no policy"):
        make_book([], {"m": SOURCE})
    with pytest.raises(BadInputError, match="second policy"):
        book(policy("a"), policy("a"))
    with pytest.raises(BadInputError, match="name"):
        book(policy("a b\r\n"))


def test_a_version_changes_with_the_content_alone():
    one, same, other = book(policy("a")), book(policy("a")), book(policy("a", threshold=0.4))
    assert one.version == same.version != other.version


def test_a_file_that_is_no_policy_names_itself(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(BadInputError, match=r"bad\.toml"):
        load_book(tmp_path, {"m": SOURCE})


# --- keys -----------------------------------------------------------------------------------------------------------

KEYS = """
[[key]]
name = "web"
key = "web-secret-0123456789"
policies = ["strict"]

[[key]]
name = "ops"
sha256 = "8c8c1bd4e8c6e3d2b8c1b9be6d4d2b11b7a4f3d1f0d1b6a98f6d6c6a2d8f5e10"
floor = "strict"
may_loosen = true
requests_per_minute = 60
"""


def ring_of(tmp_path, text):
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return read_keys(path)


def test_a_key_is_found_by_what_it_is_and_nothing_else_is(tmp_path):
    ring = ring_of(tmp_path, KEYS)
    assert ring.bearer(b"Bearer web-secret-0123456789").name == "web"
    assert ring.bearer(b"bearer   web-secret-0123456789 ").name == "web"
    for bad in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer web-secret-012345678",
        b"Basic web-secret-0123456789",
        b"\xff",
    ):
        with pytest.raises(Fault) as raised:
            ring.bearer(bad)
        assert raised.value.status == 401
    assert "secret" not in repr(ring)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        "[[key]]\nname = 'a'",
        "[[key]]\nname = 'a'\nkey = 'short'",
        "[[key]]\nname = 'a'\nkey = 'long-enough-secret'\nsha256 = 'ab'",
        "[[key]]\nname = 'a'\nsha256 = 'ab'",
        "[[key]]\nname = 'a'\nkey = 'long-enough-secret'\nmay_losen = true",
        "[[key]]\nname = 'a'\nkey = 'long-enough-secret'\nrequests_per_minute = 0",
        "[[key]]\nname = 'a'\nkey = 'long-enough-secret'\n[[key]]\nname = 'a'\nkey = 'other-enough-secret'",
        "[[key]]\nname = 'a'\nkey = 'long-enough-secret'\n[[key]]\nname = 'b'\nkey = 'long-enough-secret'",
    ],
)
def test_a_bad_keys_file_names_itself_and_no_secret(tmp_path, text):
    with pytest.raises(BadInputError, match=r"keys\.toml") as raised:
        ring_of(tmp_path, text)
    assert "enough-secret" not in str(raised.value)


def test_a_key_cannot_name_a_policy_that_is_not_there():
    for key in (ApiKey(name="a", floor="missing"), ApiKey(name="a", policies=("default", "missing"))):
        with pytest.raises(BadInputError, match="missing"):
            check_keys(KeyRing((key,)), book())
