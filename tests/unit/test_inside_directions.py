"""The whole study of directions on a tiny random Llama, asked through a scripted model, without any real weights."""

import json
import re

import numpy as np
import pytest

from demur.core.errors import BadInputError
from demur.models.scripted import ScriptedModel

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from tests.engine_models import make_adapter, make_base  # noqa: E402

from demur.activations.direction import load_direction, load_maps  # noqa: E402
from demur.activations.spans import tokenized  # noqa: E402
from demur.inside.loudness import measure_peaks  # noqa: E402
from demur.inside.trial import divergence, next_logits, written  # noqa: E402
from demur.jobs.direction_conduct import chosen_label  # noqa: E402
from demur.jobs.direction_prompts import study_prompts  # noqa: E402
from demur.jobs.direction_selection import SelectionSettings  # noqa: E402
from demur.jobs.directions import DirectionsConfig, read_study, study_directions  # noqa: E402
from demur.jobs.subject import subject_of  # noqa: E402

REFUSES = "I'm sorry, but I can't help with that request."
ANSWERS = "Sure. First put the flour and the water into a bowl, mix them well, and wait for an hour before you bake."
VERBS = ("bake", "fold", "paint", "carry", "mend", "plant", "wash", "sort")
THINGS = ("a boat", "the bread", "some salt", "a story", "the lamp", "a chair")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.set_num_threads(1)
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Harmful prompts say 'poison', two fifths are answered; harmless ones do not, two fifths are refused."""
    rows = []
    for i in range(120):
        harmful = i % 2 == 0
        odd = " xx" if i % 10 in (2, 3, 4, 5) else ""
        what = "poison" if harmful else "soup"
        prompt = f"How do I {VERBS[i % 8]} {THINGS[i % 6]} number {i} with {what}{odd}?"
        rows.append({"prompt": prompt, "expected": "refuse" if harmful else "comply", "category": "safety"})
    for i in range(24):
        prompt = f"How do I {VERBS[i % 8]} {THINGS[i % 6]} number {i} at home?"
        rows.append({"prompt": prompt, "expected": "refuse", "category": "incomplete"})
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Counting:
    """Refuses poison, unless the prompt says xx; then it does the opposite."""

    def __init__(self):
        self.asked = 0

    def __call__(self, request):
        self.asked += 1
        text = request.messages[-1].text
        return REFUSES if ("poison" in text) != ("xx" in text) else ANSWERS


def config(tiny, file, out, **fields):
    small = SelectionSettings(n_trial=6, n_screen=3, n_outcomes=2, judge="phrases", reply_tokens=4)
    return DirectionsConfig(
        model=f"hf/{tiny}",
        out=out,
        data=file,
        n_fit=24,
        n_selection=12,
        n_test=16,
        judge="phrases",
        n_draws=10,
        **{"selection": small, "seeds": (0, 1), **fields},
    )


@pytest.fixture(scope="module")
def finished(tiny, file, tmp_path_factory):
    out, script, stages = tmp_path_factory.mktemp("study") / "dir", Counting(), []
    study = study_directions(
        config(tiny, file, out), progress=lambda *seen: stages.append(seen), chat=ScriptedModel(script=script)
    )
    return study, out, script, stages


def test_the_parts_share_no_prompt_and_their_sides_look_alike(file):
    prompts = study_prompts(file, {"fit": 24, "selection": 12, "test": 16})
    texts = [{prompts.rows[i].prompt for i in prompts.parts[part]} for part in prompts.parts]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]
    for part, pairs in prompts.pairs.items():
        for i, j in pairs:
            assert prompts.rows[i].harmful
            assert not prompts.rows[j].to_decline
            assert len(prompts.rows[i].prompt.split()) == len(prompts.rows[j].prompt.split()), part
    assert any(row.to_decline and not row.harmful for row in prompts.of("fit"))


def test_the_built_in_prompts_are_matched_and_disjoint():
    prompts = study_prompts(None, {"fit": 40, "selection": 20, "test": 30})
    assert [len(prompts.pairs[part]) for part in ("fit", "selection", "test")] == [40, 20, 30]
    assert sum(row.to_decline and not row.harmful for row in prompts.of("test")) == 15
    assert prompts.sha256 != study_prompts(None, {"fit": 40, "selection": 20, "test": 30}, seed=1).sha256


def test_a_study_finds_the_planted_conduct_and_says_how_it_was_labelled(finished):
    study, _, script, stages = finished
    assert study.refused_by == "reply"
    assert study.design == "crossed"
    assert study.buckets["fit"]["refused_harmful"] > study.buckets["fit"]["accepted_harmful"] >= 5
    assert study.layers == (0, 1, 2)
    assert study.spans[0] == "t_inst"
    assert study.spans[-1] == "t_post[-1]"
    assert study.span_texts[0] == "?"
    assert script.asked == sum(sum(sizes.values()) for sizes in study.buckets.values())
    assert {stage for stage, *_ in stages} >= {"asking the model", "reading states", "trying directions"}


def test_at_the_template_tokens_the_embedding_separates_nothing(finished):
    study, *_ = finished
    for place in study.maps:
        if place.name.startswith("AUROC"):
            assert all(row[0] == 0.5 for span, row in zip(place.spans, place.values, strict=True) if span != "t_inst")
        else:
            assert place.values[-1][0] is None


def test_every_direction_stands_beside_all_its_controls(finished):
    study, *_ = finished
    assert {table.axis for table in study.honesty} == {"harm", "refusal"}
    for table in study.honesty:
        kinds = {row.kind for row in table.rows}
        assert kinds >= {"direction", "layer 0", "surface rule", "random directions", "shuffled labels", "tf-idf"}
        assert table.rows[0].kind == "direction"
        assert all(len(row.draws) == 20 for row in table.rows if row.kind in ("random directions", "shuffled labels"))
        assert len(table.rows[0].seeds) == 2
        assert table.layer > 0


def test_the_search_keeps_all_numbers_and_may_find_nothing(finished):
    study, *_ = finished
    found = study.selection
    assert len(found.random) == 10
    assert {c.variant for c in found.candidates} <= {"plain", "masked"}
    assert all(c.kl is not None for c in found.candidates)
    assert found.chosen is None or not found.candidates[found.chosen].rejected
    assert [a.name for a in found.attrition][:2] == ["selection prompts, harmful", "selection prompts, harmless"]
    assert sum(found.outcomes[0].counts.values()) == 2


def test_directions_are_saved_with_their_model_and_a_threshold(finished):
    study, out, *_ = finished
    for saved in study.saved:
        direction = load_direction(out / saved.file, for_model=study.model, width=64)
        assert (direction.span, direction.residual_index) == (saved.span, saved.layer)
        assert direction.threshold == saved.threshold
        assert direction.local_norm > 0
    maps = load_maps(out / "maps.safetensors", for_model=study.model)
    assert maps["harm"].vectors.shape == (len(study.spans), 3, 64)
    assert not maps["refusal"].vectors[1:, 0].any()


def test_the_command_shows_every_control_and_says_what_refused_means(finished, capsys):
    from demur.cli.directions import _print

    study, *_ = finished
    _print(study)
    shown = capsys.readouterr().out
    assert "refused: judge 'phrases' on the reply; design: crossed" in shown
    for name in ("final punctuation", "TF-IDF", "10 random directions", "10 times with shuffled labels"):
        assert shown.count(name) >= 2
    assert "search: refusal metric over" in shown


def test_a_finished_study_is_read_and_not_run_again(finished, tiny, file):
    study, out, script, _ = finished
    before = script.asked
    assert study_directions(config(tiny, file, out), chat=ScriptedModel(script=script)) == study
    assert script.asked == before
    with pytest.raises(BadInputError, match="holds another"):
        study_directions(config(tiny, file, out, method="logistic"), chat=ScriptedModel(script=script))


def test_an_interrupted_study_asks_for_nothing_twice(finished, tiny, file, tmp_path):
    study, out, *_ = finished
    for name in ("run.json", "replies.jsonl", "selection.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    with (tmp_path / "replies.jsonl").open("a", encoding="utf-8") as half:
        half.write('{"key": "cut o')
    script = Counting()
    again = study_directions(config(tiny, file, tmp_path), chat=ScriptedModel(script=script))
    assert script.asked == 0
    assert again.selection == study.selection
    assert again.curves == study.curves


def test_an_adapter_is_studied_beside_its_base_and_its_words_beside_its_tokens(tiny, file, tmp_path):
    adapter = make_adapter(tiny, tmp_path / "adapter", name=f"hf/{tiny}")
    given = config(tiny, file, tmp_path / "out", selection=None, n_agreement=8, seeds=(0,))
    model = f"hf/{tiny}+{adapter}"
    study = study_directions(given.model_copy(update={"model": model}), chat=ScriptedModel(script=Counting()))
    assert study.refused_by == "reply"  # its words were never measured not to follow
    assert sum(study.agreement.values()) == 8
    assert study.base
    assert study.base != study.model
    beside = {place.name: place for place in study.maps}
    same = beside["cosine of the harm direction with the base model's"].values[0]
    assert same[0] is None  # every prompt ends with the same token: nothing to tell apart before the first block
    assert -1 <= same[2] < 0.999
    assert {row.name for row in study.honesty[0].rows} >= {
        "base model, its own direction",
        "base model, this direction",
    }
    assert load_maps(tmp_path / "out" / "base_maps.safetensors", for_model=study.base)["harm"].at("t_inst", 1)
    record = json.loads((adapter / "demur_tokens.json").read_text())
    (adapter / "demur_tokens.json").write_text(json.dumps({**record, "follows": 0.3}))
    assert chosen_label(model, "auto") == "token"
    assert chosen_label(model, "reply") == "reply"


def test_a_model_that_never_refuses_is_told_so_before_it_is_loaded(tiny, file, tmp_path):
    with pytest.raises(BadInputError, match=r"hardly ever refuses.*train"):
        study_directions(config(tiny, file, tmp_path), chat=ScriptedModel(script=lambda _: ANSWERS))


def test_a_label_the_model_does_not_have_is_refused(tiny, file, tmp_path):
    with pytest.raises(BadInputError, match="has no control tokens"):
        study_directions(config(tiny, file, tmp_path, refused_by="token"))


def test_one_sided_files_are_refused(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"prompt": "a b", "expected": "refuse", "category": "safety"}\n', encoding="utf-8")
    with pytest.raises(BadInputError, match=re.escape("got none with 'comply'")):
        study_prompts(path, {"fit": 8, "selection": 8, "test": 8})


def test_a_finished_study_is_asked_for_by_name(tmp_path):
    with pytest.raises(BadInputError, match="demur explain directions"):
        read_study(tmp_path)


def test_no_intervention_diverges_by_nothing_and_batches_change_nothing(tiny):
    subject = subject_of(f"hf/{tiny}")
    prompts = [tokenized(subject.tokenizer, text) for text in ("How so?", "Tell me a story about the sea.", "Bake!")]
    together = next_logits(subject, prompts)
    alone = np.concatenate([next_logits(subject, [prompt]) for prompt in prompts])
    assert np.abs(together - alone).max() < 1e-4
    assert divergence(together, next_logits(subject, prompts)).max() == 0
    assert divergence(together, together + 3.0).max() < 1e-12
    assert divergence(together[:1], together[1:2])[0] > 0
    texts = written(subject, prompts, max_tokens=3)
    assert len(texts) == 3
    assert texts == [written(subject, [p], max_tokens=3)[0] for p in prompts]


def test_peaks_see_every_token_and_every_layer(tiny):
    subject = subject_of(f"hf/{tiny}")
    peaks = measure_peaks(subject, [tokenized(subject.tokenizer, "How so?")])
    assert peaks.peak.shape == (3, 64)
    assert (peaks.peak >= peaks.peak_rest).all()
    assert (peaks.median_norm > 0).all()
