"""Both of vLLM's calling conventions, faked, against the decisions that every other door makes."""

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from demur.control.decision import decide
from demur.core.errors import BadInputError
from demur.core.policy import Policy, Rule, SignalSource
from demur.core.signal import TEMPERATURES, SignalScores

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from demur.serve.vllm_policy import DemurPolicy  # noqa: E402

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
WORDS = ["<|im_start|>", "<|im_end|>", "user", "assistant", "Hello", "[UNK]", *map(chr, range(97, 123))]
CONTROL = {c: f"<|decline:{c}|>" for c in CATEGORIES} | {"respond": "<|respond|>"}
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
IDS = {name: len(WORDS) + i for i, name in enumerate(CONTROL)}
VOCABULARY = len(WORDS) + len(CONTROL)
SOURCE = SignalSource(name="refusal-tokens", identity="tiny@r+a", token_ids=IDS)
PROMPT = [0, 2, 4, 1, 0, 3]  # <|im_start|> user Hello <|im_end|> <|im_start|> assistant
KINDS = ("two_way", "sum", "bias", "category_set", "per_category")


def record(**changes):
    tokens = {name: {"text": text, "id": IDS[name]} for name, text in CONTROL.items()}
    return {"format": 1, "mode": "lora", "base": "tiny", "tokens": tokens, "identity": "tiny@r+a"} | changes


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*WORDS[:2], *CONTROL.values()])
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path, tokenizer_files):
    made = tmp_path / "model"
    made.mkdir()
    for name, content in tokenizer_files.items():
        (made / name).write_bytes(content)
    (made / "demur_tokens.json").write_text(json.dumps(record()))
    return made


def config_of(folder, vocabulary=VOCABULARY):
    return SimpleNamespace(model_config=SimpleNamespace(model=str(folder), get_vocab_size=lambda: vocabulary))


def toml(policy):
    def table(value):
        return "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + "}"

    lines = [
        f"{k} = {json.dumps(getattr(policy, k))}" for k in ("name", "kind", "view", "temperature", "threshold", "bias")
    ]
    lines.append(
        f"source.name = {json.dumps(policy.source.name)}\nsource.identity = {json.dumps(policy.source.identity)}"
    )
    lines.append(f"source.token_ids = {table(policy.source.token_ids)}")
    lines += [f"rules.{c} = {table(r.model_dump(exclude_none=True))}" for c, r in policy.rules.items()]
    return "\n".join(lines)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Sets the environment to a folder of policies."""

    def set_up(*policies, **variables):
        where = tmp_path / "policies"
        where.mkdir()
        for policy in policies:
            (where / f"{policy.name}.toml").write_text(toml(policy))
        for name in ("DEMUR_DEFAULT_POLICY", "DEMUR_FLOOR_POLICY", "DEMUR_MAY_LOOSEN", "DEMUR_TOKENS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"DEMUR_POLICIES": str(where), **variables}.items():
            monkeypatch.setenv(name, value)

    return set_up


def policy(name="default", **changes):
    return Policy(name=name, source=SOURCE, **changes)


NEVER = policy("never", threshold=1.0)
ALWAYS = policy("always", kind="sum", threshold=0.0)


def params(value=None, **others):
    return SimpleNamespace(extra_args=None if value is None else {"demur_policy": value}, **others)


class Direction(Enum):
    UNIDIRECTIONAL = 0
    SWAP = 1


@dataclass
class Update:
    removed: list = field(default_factory=list)
    added: list = field(default_factory=list)
    moved: list = field(default_factory=list)


class V1Engine:
    """The persistent batch of the V1 runner: rows are requests, told of changes before each step."""

    def __init__(self, folder):
        self.processor = DemurPolicy(config_of(folder), torch.device("cpu"), False)
        self.outputs = {}

    def add(self, row, request, prompt=PROMPT, output=()):
        self.outputs[row] = list(output)
        self.processor.update_state(Update(added=[(row, request, prompt, self.outputs[row])]))

    def step(self, logits):
        self.processor.update_state(None)
        out = self.processor.apply(torch.tensor(logits, dtype=torch.float32)).numpy()
        for row, output in self.outputs.items():
            output.append(int(out[row].argmax()))
        return out


class V2Engine:
    """The slots of Model Runner V2: rows change places every step, and a request may own several of them."""

    def __init__(self, folder, slots=64):
        self.tokens = torch.zeros(slots, 128, dtype=torch.int32)
        self.lengths = np.zeros(slots, dtype=np.int32)
        states = SimpleNamespace(
            prompt_len=SimpleNamespace(np=self.lengths), all_token_ids=SimpleNamespace(gpu=self.tokens)
        )
        self.processor = DemurPolicy(config_of(folder), states)

    def add(self, slot, request, prompt=PROMPT, output=()):
        whole = [*prompt, *output]
        self.tokens[slot, : len(whole)] = torch.tensor(whole)
        self.lengths[slot] = len(prompt)
        assert self.processor.add_request(slot, request) is True
        self.processor.apply_staged_writes()

    def step(self, logits, slots, seen):
        """One step; `seen` says for each row how many tokens its next one follows."""
        rows = torch.tensor(slots)
        context = SimpleNamespace(
            idx_mapping_np=np.array(list(dict.fromkeys(slots))),
            expanded_idx_mapping=rows,
            pos=torch.tensor(seen) - 1,
        )
        return self.processor.apply(torch.tensor(logits, dtype=torch.float32), context).numpy()


def random_logits(seed, n, *, lift=0.0, spread=3.0):
    logits = np.random.default_rng(seed).normal(size=(n, VOCABULARY)) * spread
    logits[:, list(IDS.values())] += lift
    return logits.astype(np.float32)


def reference(policy, row):
    """The decision of every other door, from the row's log-probabilities."""
    row = row.astype(np.float64)
    totals = [np.log(np.exp((row - row.max()) / t).sum()) + row.max() / t for t in TEMPERATURES]
    ids = [IDS[c] for c in (*CATEGORIES, "respond")]
    top = ids.index(int(row.argmax())) if int(row.argmax()) in ids else -1
    scores = SignalScores(
        categories=CATEGORIES, logits=row[None, ids], log_total=np.array([totals]), top=np.array([top])
    )
    column = int(decide(policy, scores).token[0])
    return None if column < 0 else ids[column]


def emitted(row):
    """The only possible token of a row; None where the ordinary ones are all possible."""
    possible = np.flatnonzero(np.isfinite(row))
    if len(possible) == 1:
        return int(possible[0])
    assert set(possible) == set(range(VOCABULARY)) - set(IDS.values())
    return None


def every_policy():
    for kind, view, temperature in itertools.product(KINDS, ("posterior", "full"), TEMPERATURES):
        share = 0.03 if view == "full" else 0.3
        rules = {"safety": Rule(threshold=share / 2), "humanizing": Rule(action="answer")}
        name = f"{kind}-{view}-{temperature:g}"
        yield policy(name, kind=kind, view=view, temperature=temperature, threshold=share, bias=-1.0, rules=rules)
    yield policy("default", temperature=0.7, threshold=0.25)


@pytest.mark.parametrize("lift", [0.0, 3.0, 9.0])
def test_every_policy_decides_as_everywhere_else_in_one_batch_and_in_both_runners(folder, serve, lift):
    policies = [p for p in every_policy() for _ in range(2)]
    serve(*every_policy())
    logits = random_logits(int(lift), len(policies), lift=lift)
    expected = [reference(p, row) for p, row in zip(policies, logits, strict=True)]
    first, second = V1Engine(folder), V2Engine(folder, slots=256)
    for i, p in enumerate(policies):
        first.add(i, params(p.name))
        second.add(200 - i, params(p.name))
    by_row = first.step(logits)
    shuffled = np.random.default_rng(1).permutation(len(policies))
    by_slot = second.step(logits[shuffled], [200 - i for i in shuffled], [len(PROMPT)] * len(policies))
    assert [emitted(row) for row in by_row] == expected
    assert [emitted(row) for row in by_slot] == [expected[i] for i in shuffled]


def test_the_batches_above_decide_in_every_way():
    found = [reference(p, row) for p in every_policy() for lift in (0.0, 9.0) for row in random_logits(0, 3, lift=lift)]
    assert {None, IDS["respond"], IDS["safety"]} < set(found)


def test_later_positions_never_emit_a_control_token_and_are_otherwise_untouched(folder, serve):
    serve(ALWAYS, NEVER, policy())
    first, second = V1Engine(folder), V2Engine(folder)
    logits = random_logits(0, 2, lift=20.0)
    for engine in (first, second):
        engine.add(0, params("always"))
        engine.add(1, params("never"))
    first.step(logits)
    second.step(logits, [0, 1], [6, 6])
    for out in (first.step(logits), second.step(logits, [0, 1], [7, 7])):
        ordinary = [i for i in range(VOCABULARY) if i not in IDS.values()]
        assert [emitted(row) for row in out] == [None, None]
        assert (out[:, ordinary] == logits[:, ordinary]).all()


def test_rows_of_nobody_are_untouched(folder, serve):
    serve(ALWAYS)
    first, second = V1Engine(folder), V2Engine(folder)
    logits = random_logits(0, 3)
    first.add(1, params())
    second.add(1, params())
    for out in (first.step(logits), second.step(logits, [5, 1, 7], [6, 6, 6])):
        assert (out[[0, 2]] == logits[[0, 2]]).all()
        assert emitted(out[1]) in IDS.values()


def test_requests_keep_their_policy_when_the_v1_batch_is_rearranged(folder, serve):
    serve(ALWAYS, NEVER, DEMUR_DEFAULT_POLICY="never")
    engine = V1Engine(folder)
    logits = random_logits(0, 4)
    for row, name in enumerate(["always", "never", "always", "never"]):
        engine.add(row, params(name))
    moved = [(0, 1, Direction.SWAP), (3, 2, Direction.UNIDIRECTIONAL)]
    engine.processor.update_state(Update(removed=[2], moved=moved))
    engine.outputs = {}
    out = engine.step(logits)
    assert [emitted(row) == IDS["respond"] for row in out[:3]] == [True, False, True]
    assert (out[3] == logits[3]).all()


def test_v2_waits_for_the_whole_prompt(folder, serve):
    serve(NEVER)
    engine = V2Engine(folder)
    engine.add(3, params())
    logits = random_logits(0, 1)
    assert [emitted(engine.step(logits, [3], [n])[0]) for n in (2, 5, 6, 7)] == [None, None, IDS["respond"], None]


def test_v2_decides_again_for_the_next_request_in_a_slot_but_not_after_preemption(folder, serve):
    serve(NEVER, ALWAYS, DEMUR_DEFAULT_POLICY="never")
    engine = V2Engine(folder)
    logits = random_logits(0, 1)
    engine.add(3, params("never"))
    engine.step(logits, [3], [6])
    engine.add(3, params("never"), output=[IDS["respond"], 9, 9])
    assert emitted(engine.step(logits, [3], [9])[0]) is None
    engine.add(3, params("always"))
    assert emitted(engine.step(logits, [3], [6])[0]) not in (None, IDS["respond"])


def test_v2_masks_each_draft_row_of_a_request(folder, serve):
    serve(NEVER)
    engine = V2Engine(folder)
    engine.add(2, params())
    engine.add(5, params())
    logits = random_logits(0, 4, lift=9.0)
    out = engine.step(logits, [5, 2, 2, 2], [6, 7, 8, 9])
    assert [emitted(row) for row in out] == [IDS["respond"], None, None, None]


@pytest.mark.parametrize(
    ("what", "prompt"),
    [
        ("control token in user text", [0, 2, IDS["respond"], 1, 0, 3]),
        ("control token after the opening", [*PROMPT, IDS["respond"]]),
        ("prefilled words", [*PROMPT, 7, 8]),
        ("no assistant's turn", [0, 2, 4, 1]),
        ("empty", []),
        ("embeddings instead of tokens", None),
    ],
)
def test_a_prompt_that_comes_before_its_decision_is_declined(folder, serve, what, prompt):
    serve(NEVER)
    logits = random_logits(0, 2, lift=5.0)
    best = max(CATEGORIES, key=lambda c: logits[0, IDS[c]])
    first, second = V1Engine(folder), V2Engine(folder)
    first.add(0, params(), prompt=prompt)
    first.add(1, params())
    assert [emitted(row) for row in first.step(logits)] == [IDS[best], IDS["respond"]]
    if prompt:
        second.add(0, params(), prompt=prompt)
        second.add(1, params())
        out = second.step(logits, [0, 1], [len(prompt), 6])
        assert [emitted(row) for row in out] == [IDS[best], IDS["respond"]]


def test_a_policy_that_declines_nothing_declines_no_prompt(folder, serve):
    serve(policy(rules={c: Rule(action="answer") for c in CATEGORIES}))
    engine = V1Engine(folder)
    engine.add(0, params(), prompt=[IDS["respond"]])
    assert emitted(engine.step(random_logits(0, 1))[0]) == IDS["respond"]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_declined(folder, serve, broken):
    serve(NEVER)
    first, second = V1Engine(folder), V2Engine(folder)
    logits = np.full((1, VOCABULARY), broken, dtype=np.float32)
    first.add(0, params())
    second.add(0, params())
    for out in (first.step(logits), second.step(logits, [0], [6])):
        assert emitted(out[0]) in set(IDS.values()) - {IDS["respond"]}


def test_a_request_that_was_never_checked_is_declined_not_answered(folder, serve, caplog):
    serve(NEVER)
    caplog.set_level("WARNING", logger="demur.serve.vllm_policy")  # other tests' libraries raise levels
    engine = V1Engine(folder)
    engine.add(0, params("unknown"))
    assert emitted(engine.step(random_logits(0, 1))[0]) in set(IDS.values()) - {IDS["respond"]}
    assert "unknown policy" in caplog.text


def test_a_floor_holds_whatever_policy_is_named(folder, serve):
    floor = policy("floor", threshold=1.0, rules={"safety": Rule(threshold=0.3)})
    serve(policy(), NEVER, ALWAYS, floor, DEMUR_FLOOR_POLICY="floor")
    logits = random_logits(0, 60, lift=5.0)
    engine = V1Engine(folder)
    for row in range(60):
        engine.add(row, params("never" if row % 2 else "always"))
    out = [emitted(row) for row in engine.step(logits)]
    expected = [reference(floor if i % 2 else ALWAYS, row) for i, row in enumerate(logits)]
    assert out == expected
    assert IDS["safety"] in out[1::2]
    assert IDS["respond"] in out[1::2]


def test_a_request_may_lower_thresholds(folder, serve):
    serve(NEVER)
    engine = V1Engine(folder)
    engine.add(0, params('{"safety": {"t": 0.0}}'))
    engine.add(1, params())
    assert [emitted(row) for row in engine.step(random_logits(0, 2))] == [IDS["safety"], IDS["respond"]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (params("lenint"), "did you mean 'lenient'"),
        (params(""), "unknown policy ''"),
        (params('{"policy": "none"}'), "unknown policy"),
        (params('{"safty": {"t": 0.1}}'), "did you mean 'safety'"),
        (params('{"safety": {"t": NaN}}'), "NaN is not JSON"),
        (params('{"safety": {"t": Infinity}}'), "Infinity is not JSON"),
        (params('{"safety": {"t": 1.5}}'), "from 0 to 1, got 1.5"),
        (params('{"safety": {"t": -0.1}}'), "from 0 to 1"),
        (params('{"safety": {"t": "0.1"}}'), "from 0 to 1"),
        (params('{"safety": {"t": true}}'), "from 0 to 1"),
        (params('{"safety": {}}'), '"t"'),
        (params('{"safety": {"t": 0.1, "max_rate": 0.2}}'), "max_rate"),
        (params('{"safety": 0.1}'), "expected an object"),
        (params('{"safety": {"t": 0.1}, "safety": {"t": 0.2}}'), "twice"),
        (params('{"safety": {"t": 0.9}}'), "only lower"),
        (params("{"), "JSON"),
        (params(3), "a string, got 3"),
        (params(["lenient"]), "a string, got an array"),
        (SimpleNamespace(extra_args={"demur_policy": None}), "got null"),
        (SimpleNamespace(extra_args={"demur_polcy": "lenient"}), "did you mean 'demur_policy'"),
        (SimpleNamespace(extra_args={"demur": "lenient"}), "unknown argument"),
        (params(logit_bias={IDS["respond"]: 100.0}), "logit_bias"),
        (params(allowed_token_ids=[1]), "allowed_token_ids"),
        (params(bad_words=["x"]), "bad_words"),
        (params(structured_outputs=object()), "structured_outputs"),
        (params(thinking_token_budget=0), "thinking_token_budget"),
        (params(stop_token_ids=[IDS["safety"]]), "stop_token_ids"),
        (params("whole", repetition_penalty=1.1), "repetition_penalty"),
    ],
)
def test_what_a_request_cannot_have_is_a_value_error(serve, asked, message):
    serve(policy(threshold=0.4), policy("lenient", threshold=0.8), policy("whole", view="full"))
    with pytest.raises(ValueError, match=message):
        DemurPolicy.validate_params(asked)


@pytest.mark.parametrize(
    "asked",
    [
        params(),
        params("lenient"),
        params('{"safety": {"t": 0.1}, "policy": "lenient"}'),
        params("{}"),
        SimpleNamespace(extra_args={"kv_transfer_params": {}}),
        params("lenient", logit_bias=None, bad_words=[], stop_token_ids=[1], repetition_penalty=1.1),
        params("whole", repetition_penalty=1.0),
    ],
)
def test_what_a_request_may_have_passes(serve, asked):
    serve(policy(), policy("lenient", threshold=0.8), policy("whole", view="full"))
    assert DemurPolicy.validate_params(asked) is None


def test_thresholds_may_be_raised_where_the_operator_allows_it(serve):
    serve(policy(), DEMUR_MAY_LOOSEN="1")
    assert DemurPolicy.validate_params(params('{"safety": {"t": 0.9}}')) is None


def test_without_policies_every_request_is_an_error(monkeypatch):
    monkeypatch.delenv("DEMUR_POLICIES", raising=False)
    with pytest.raises(ValueError, match="DEMUR_POLICIES"):
        DemurPolicy.validate_params(params())


def other(**changes):
    return SOURCE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("policies", "variables", "message"),
    [
        ([policy(rules={"safety": Rule(wording="No.")})], {}, "fixed texts; put 'demur serve' in front"),
        ([Policy(name="p", source=SignalSource(name="predictor", identity="x"))], {}, "was made for predictor"),
        ([Policy(name="p", source=other(identity="tiny@r+b"))], {}, "was made for refusal-tokens of tiny@r.b"),
        ([Policy(name="p", source=other(token_ids=IDS | {"safety": 1}))], {}, "calibrate it for this model"),
        ([policy(), Policy(name="p", source=other(identity="other"))], {}, "was made for"),
        ([Policy(name="p", source=other(token_ids={}))], {}, "only control tokens"),
        ([policy(view="full", temperature=0.7)], {}, "temperature: expected one of"),
        ([policy("a"), policy("b")], {}, "DEMUR_DEFAULT_POLICY: .* which is the default"),
        ([policy()], {"DEMUR_DEFAULT_POLICY": "x"}, "default policy 'x'"),
        ([policy()], {"DEMUR_FLOOR_POLICY": "x"}, "DEMUR_FLOOR_POLICY: unknown policy 'x'"),
        ([policy()], {"DEMUR_MAY_LOOSEN": "yes"}, "expected 0 or 1"),
        ([], {}, "DEMUR_POLICIES: expected a policy file"),
    ],
)
def test_policies_an_engine_cannot_honour_stop_it_at_the_start(folder, serve, policies, variables, message):
    serve(*policies, **variables)
    with pytest.raises(BadInputError, match=message):
        DemurPolicy(config_of(folder), torch.device("cpu"), False)


@pytest.mark.parametrize(
    ("content", "vocabulary", "message"),
    [
        (record(mode="rows"), VOCABULARY, "put 'demur serve' in front"),
        (None, VOCABULARY, "found no demur_tokens.json"),
        (record(), VOCABULARY - 1, "beyond the served vocabulary"),
        ({"format": 2}, VOCABULARY, "demur_tokens.json"),
    ],
)
def test_models_an_engine_cannot_control_stop_it_at_the_start(folder, serve, content, vocabulary, message):
    serve(policy())
    (folder / "demur_tokens.json").unlink()
    if content is not None:
        (folder / "demur_tokens.json").write_text(json.dumps(content))
    with pytest.raises(BadInputError, match=message):
        DemurPolicy(config_of(folder, vocabulary), SimpleNamespace())


def test_the_record_of_tokens_may_lie_elsewhere(folder, serve):
    serve(policy(), DEMUR_TOKENS=str(folder))
    DemurPolicy(config_of("organisation/model"), SimpleNamespace())


LOADERS = """
import sys
from demur.serve.vllm_policy import DemurPolicy
first, second = sys.modules["vllm.v1.sample.logits_processor"], sys.modules["vllm.v1.worker.gpu.sample.logits_processor"]
assert issubclass(DemurPolicy, first.LogitsProcessor) and issubclass(DemurPolicy, second.LogitsProcessor)
assert not DemurPolicy.__abstractmethods__
assert "torch" not in sys.modules
"""
BASE = "from abc import ABC, abstractmethod\nclass LogitsProcessor(ABC):\n"
V1_BASE = BASE + "".join(
    f"    @abstractmethod\n    def {name}(self, *a): raise NotImplementedError\n"
    for name in ("__init__", "apply", "is_argmax_invariant", "update_state")
)
V2_BASE = BASE + "    @abstractmethod\n    def apply(self, logits, ctx): raise NotImplementedError\n"


def test_one_class_satisfies_both_loaders_and_stays_light_to_import(tmp_path):
    for module, text in {
        "v1/sample/logits_processor": V1_BASE,
        "v1/worker/gpu/sample/logits_processor": V2_BASE,
    }.items():
        path = tmp_path / "vllm" / module
        path.mkdir(parents=True)
        for package in path.relative_to(tmp_path).parents[:-1]:  # a vLLM that is really installed must not win
            (tmp_path / package / "__init__.py").touch()
        (path / "__init__.py").write_text(text)
    subprocess.run(
        [sys.executable, "-c", LOADERS], check=True, env={"PYTHONPATH": f"{tmp_path}:{Path('src').resolve()}"}
    )


def test_no_entry_point_would_stop_an_engine():
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert "vllm.logits_processors" not in pyproject
