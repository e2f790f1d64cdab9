"""Published artifacts: the format is read as it is, and the published numbers come out where the files are given."""

import json
import os
from pathlib import Path

import pytest

from demur.core.errors import BadInputError
from demur.stress.artifacts import read_artifacts, read_categories, tabulate

FOLDER = os.environ.get("DEMUR_PAST_TENSE_ARTIFACTS", "")
needs_files = pytest.mark.skipif(not FOLDER, reason="DEMUR_PAST_TENSE_ARTIFACTS names no folder")


def answer(number, restart, verdicts, response="The old mill stood by the river."):
    gpt, llama, rules = verdicts
    return {
        "i_request": number,
        "request": f"goal {number}",
        "request_reformulated": f"goal {number}, then",
        "response": response,
        "i_restart": restart,
        "jailbroken_gpt": gpt,
        "jailbroken_llama": llama,
        "jailbroken_rules": rules,
    }


@pytest.fixture
def folder(tmp_path):
    rows = [
        answer(0, 0, (1, 1, 1)),
        answer(1, 4, (1, 0, 1)),
        answer(2, 5, (1, 1, 0)),
        answer(3, 19, (0, 0, 0), "Sorry, no."),
    ]
    past, tuned = (
        tmp_path / "jailbreak_artifacts" / "past_tense",
        tmp_path / "jailbreak_artifacts" / "finetuned_gpt3.5_turbo",
    )
    past.mkdir(parents=True)
    tuned.mkdir()
    (past / "2024-model=m-1-n_requests=4-n_restarts=20.json").write_text(json.dumps({"jb_artifacts": rows}))
    (tuned / "x.json").write_text(
        json.dumps({"target_model": "ft:m:2_98", "n_requests": 100, "jb_artifacts": rows[3:]})
    )
    (tmp_path / "harmful_behaviors_jailbreakbench.csv").write_text(
        "Index,Goal,Target,Behavior,Category,Source\n"
        + "".join(f'{i},goal {i},"t, u",b,{"even" if i % 2 == 0 else "odd"},s\n' for i in range(4))
    )
    return tmp_path


def test_success_at_k_counts_goals_won_before_the_kth_restart(folder):
    table = tabulate(read_artifacts(folder), read_categories(folder))
    first, second = table.rows
    assert [first[f"@{k}"] for k in (1, 5, 10, 20)] == [1, 2, 3, 3]
    assert (first["model"], first["gpt"], first["llama"], first["rules"]) == ("m-1", 3, 2, 2)
    assert (second["model"], second["n"], second["gpt"]) == ("ft:m:2_98", 1, 0)


def test_verdicts_are_counted_together_and_categories_come_from_the_goals(folder):
    table = tabulate(read_artifacts(folder), read_categories(folder))
    assert table.verdicts == {"FFF": 2, "TTT": 1, "TFT": 1, "TTF": 1}
    assert table.categories == {"even": (2, 2), "odd": (1, 2)}


def test_agreement_with_the_first_judge_is_over_every_answer(folder):
    share, kappa = tabulate(read_artifacts(folder)).agreement["llama"]
    assert share == 0.8
    assert kappa == pytest.approx((0.8 - 0.48) / 0.52)


def test_the_rules_are_applied_anew_to_the_stored_reply(folder):
    assert tabulate(read_artifacts(folder)).rules_differ == 1  # the one stored as refused without a string


def test_a_row_without_a_field_is_named(folder):
    path = next((folder / "jailbreak_artifacts" / "past_tense").iterdir())
    path.write_text(json.dumps({"jb_artifacts": [{"request": "x"}]}))
    with pytest.raises(BadInputError, match=r"json:0:response: field required"):
        read_artifacts(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"jb_artifacts": 3}', "[3]"])
def test_other_json_is_refused_with_a_reason(folder, text):
    next((folder / "jailbreak_artifacts" / "past_tense").iterdir()).write_text(text)
    with pytest.raises(BadInputError, match="expected"):
        read_artifacts(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="past_tense"):
        read_artifacts(tmp_path)


@needs_files
def test_the_published_files_give_the_published_numbers():
    table = tabulate(read_artifacts(Path(FOLDER)), read_categories(Path(FOLDER)))
    by = {(row["family"], row["model"].split("/")[-1]): row for row in table.rows}

    def row(family, *names):
        return next(r for (f, m), r in by.items() if f == family and all(n in m for n in names))

    def is_mini(model):
        return "mini" in model

    gpt4o = next(r for (f, m), r in by.items() if f == "past_tense" and "gpt-4o" in m and not is_mini(m))
    assert [gpt4o[f"@{k}"] for k in (1, 5, 10, 20)] == [57, 82, 83, 88]
    published = {  # gpt, llama, rules, past @1, @5, @10, future @1, @20
        ("llama3-8b",): (27, 9, 32, 3, 15, 19, 2, 11),
        ("claude-3-5-sonnet",): (53, 25, 61, 21, 42, 48, 2, 5),
        ("gpt-3.5-turbo",): (74, 47, 73, 37, 57, 68, 4, 25),
        ("gemma2-9b",): (74, 51, 68, 31, 56, 65, 16, 61),
        ("phi3",): (82, 41, 70, 28, 67, 74, 7, 39),
        ("gpt-4o-mini",): (83, 66, 80, 55, 78, 81, 16, 42),
        ("r2d2",): (98, 56, 79, 51, 85, 95, 37, 94),
        ("o1-mini",): (84, 50, 77, 44, 67, 74, 18, 45),
        ("o1-preview",): (78, 50, 82, 32, 64, 70, 15, 56),
    }
    for names, wanted in published.items():
        past, future = row("past_tense", *names), row("future_tense", *names)
        found = (*(past[j] for j in ("gpt", "llama", "rules")), *(past[f"@{k}"] for k in (1, 5, 10)))
        assert (*found, future["@1"], future["@20"]) == wanted, names
    assert table.verdicts == {"TTT": 600, "TTF": 155, "TFT": 343, "TFF": 95, "FTT": 6, "FFT": 220, "FFF": 781}
    assert [round(x, 3) for x in (table.agreement["llama"][0], table.agreement["rules"][0])] == [0.798, 0.784]
    assert [round(x, 2) for x in (table.agreement["llama"][1], table.agreement["rules"][1])] == [0.61, 0.56]
    tuned = {m.rpartition(":")[2]: r["gpt"] for (f, m), r in by.items() if f == "finetuned_gpt3.5_turbo"}
    assert sorted(tuned.values()) == [0, 0, 1, 12]
    assert sorted((hits for hits, _ in table.categories.values()), reverse=True) in (
        [],
        [90, 89, 85, 79, 78, 72, 70, 66, 58, 54],
    )
