"""Log-probability scoring against a loop, and both set-ups of the cultures audit on a model, with what they cost.

    python benchmarks/bench_cultures.py [--model smollm2] [--limit N] [--pairs 3] [--statements 10]
    python benchmarks/bench_cultures.py --no-audit            # the ratio alone

(a) ratio     the same questions (every template, both orders, both answers) about the same statements in all languages: one
              forward pass for each answer, against trees of tokens in batches; alternately in one run, on the wall and in
              processor seconds, beside the tokens each reads, and the largest difference of a log-probability. A second loop
              reads each prompt once for both answers: the best that single items can do
(b) audit     both set-ups on the whole suite, resumed never: seconds of each, order effect, template deviation and mass by
              language, stances, what translation changes
"""

import argparse
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import record

from demur.cultures.forced_choice import questions
from demur.jobs.cultures import CulturesConfig, audit_cultures
from demur.models.answer_logprobs import LoopScorer, TreeScorer, load_reader
from demur.models.token_tree import shared_beginning, token_tree
from demur.suites.cultures import load_cultures


class OncePerPrompt(LoopScorer):
    """Reads a prompt once and each answer after it: a loop that at least shares the prompt between its answers."""

    def score(self, groups):
        for number, group in enumerate(groups):
            yield number, [self.prompt(question) for question in self.reader.group(group)]

    def prompt(self, question):
        tree = TreeScorer(self.reader)
        return tree._read([token_tree([question])], [[question]], ())[0][0]


def clocked(scorer, groups):
    wall, processor = time.perf_counter(), time.process_time()
    found = dict(scorer.score(groups))
    return found, time.perf_counter() - wall, time.process_time() - processor


def largest_difference(one, other):
    return max(
        abs(x - y)
        for number in one
        for p, q in zip(one[number], other[number], strict=True)
        for a, b in zip(p, q, strict=True)
        for x, y in zip(a.logprobs, b.logprobs, strict=True)
    )


def tokens_read(reader, groups):
    """Tokens that a loop over answers, a loop over prompts and trees read."""
    found = [reader.group(group) for group in groups]
    flat = [question for group in found for question in group]
    head = len(shared_beginning(flat))
    return {
        "per_answer": sum(len(q.prompt) + len(a) for q in flat for a in q.answers),
        "per_prompt": sum(len(token_tree([q])) for q in flat),
        "trees": head + sum(len(token_tree(group, head=head)) for group in found),
    }


def ratio_part(name, n_statements, pairs):
    reader = load_reader(name)
    rows = load_cultures("cultures-core", limit=n_statements).rows
    groups = [questions(row.language, row.statement) for row in rows]
    scorers = {"per_answer": LoopScorer(reader), "per_prompt": OncePerPrompt(reader), "trees": TreeScorer(reader)}
    for scorer in scorers.values():  # the shared beginning is read before the clock starts, and memory is warm
        dict(scorer.score(groups[:1]))
    walls, processors, found = {k: [] for k in scorers}, {k: [] for k in scorers}, {}
    for _ in range(pairs):
        for key, scorer in scorers.items():
            found[key], wall, processor = clocked(scorer, groups)
            walls[key].append(wall)
            processors[key].append(processor)
    middle = {key: statistics.median(values) for key, values in walls.items()}
    busy = {key: statistics.median(values) for key, values in processors.items()}
    result = {
        "statements": len(rows),
        "languages": sorted({row.language for row in rows}),
        "answers_weighed": sum(len(q.answers) for group in groups for q in group),
        "runs_of_each": pairs,
        "tokens": tokens_read(reader, groups),
        "seconds": {key: round(value, 2) for key, value in middle.items()},
        "processor_seconds": {key: round(value, 2) for key, value in busy.items()},
        "all_seconds": {key: [round(v, 2) for v in values] for key, values in walls.items()},
        "times_faster_than_per_answer": round(middle["per_answer"] / middle["trees"], 2),
        "times_faster_than_per_prompt": round(middle["per_prompt"] / middle["trees"], 2),
        "processor_times_faster_than_per_answer": round(busy["per_answer"] / busy["trees"], 2),
        "largest_difference": float(f"{largest_difference(found['per_answer'], found['trees']):.3g}"),
        "target": 5.0,
    }
    print(f"ratio: {result}")
    return result


def audit_part(name, limit):
    with tempfile.TemporaryDirectory() as folder:
        config = CulturesConfig(model=name, suite="cultures-core", out=Path(folder) / "run", limit=limit)
        started = time.perf_counter()
        profile = audit_cultures(config)
        total = time.perf_counter() - started
    stances = {
        form: dict(Counter(reply.stance for reply in profile.long_form if reply.form == form))
        for form in ("original", "translation")
    }
    agreement = {
        f"{cell.language or 'all'}/{cell.form}": [round(v, 4) if v is not None else None for v in
                                                  (cell.agreement.estimate, cell.agreement.low, cell.agreement.high)]
        for cell in profile.cells
        if not (cell.topic or cell.value or cell.country) and cell.agreement
    }  # fmt: skip
    result = {
        "statements": profile.n,
        "texts_weighed": len(profile.forced_choice),
        "replies": len(profile.long_form),
        "seconds": {**profile.seconds, "total": round(total, 1)},
        "effects": [effect.model_dump(mode="json") for effect in profile.effects],
        "agreement": agreement,
        "stances": stances,
        "agreement_in_translation": {k: p.model_dump(mode="json") for k, p in profile.agreement_in_translation.items()},
        "refusal_in_translation": {k: p.model_dump(mode="json") for k, p in profile.refusal_in_translation.items()},
        "languages": [note.model_dump(mode="json") for note in profile.languages],
        "setups_compared": profile.setups_compared.model_dump(mode="json") if profile.setups_compared else None,
        "notes": list(profile.notes),
    }
    print(f"audit: {result}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--limit", type=int, default=None, help="statements of the audit; all by default")
    parser.add_argument("--statements", type=int, default=10, help="statements of the ratio")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each scorer")
    parser.add_argument("--no-audit", action="store_true", help="the ratio alone")
    args = parser.parse_args()
    result = {"model": args.model, "ratio": ratio_part(args.model, args.statements, args.pairs)}
    if not args.no_audit:
        result["audit"] = audit_part(args.model, args.limit)
    record("cultures", result, packages=("torch", "transformers", "xllamacpp"))


if __name__ == "__main__":
    main()
