import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("peft")

from tests.engine_models import make_base

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from demur.models.merging import load_model, load_tokenizer
from demur.train.adapters import AdapterSettings, attach
from demur.train.row_trainer import TrainerSettings, train_rows
from demur.train.rows import Example, encoder_of
from demur.train.supervised import supervised_row

torch.set_num_threads(1)
base, out, layout = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
encoder = encoder_of(load_tokenizer(base))
rows = [supervised_row(encoder, Example("bread " * n, "boat " * (7 - n), f"k{n % 2}")) for n in range(1, 7)]
model = attach(load_model(base, dtype="float32"), AdapterSettings(rank=4, alpha=8))
given = TrainerSettings(batch_rows=5, epochs=2.0, learning_rate=1e-3, micro_tokens=64, save_steps=100, layout=layout)
trained = train_rows(model, encoder.tokenizer, rows, given, out)
if int(__import__("os").environ.get("RANK", "0")) == 0:
    weights = {k: v.flatten()[:4].tolist() for k, v in model.state_dict().items() if "lora_B" in k}
    (out / "found.json").write_text(json.dumps([trained.losses, [dict(s.by_kind) for s in trained.curve], weights]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_two_processes_learn_what_one_does(layout, tmp_path):
    base = make_base(tmp_path / "base")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    options = ("--mixed_precision", "no", "--dynamo_backend", "no")
    env, found = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}, []
    for name, how in (("one", ()), ("two", (*launch, *options))):
        (tmp_path / name).mkdir()
        command = [sys.executable, *how, tmp_path / "script.py", base, tmp_path / name, layout]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads((tmp_path / name / "found.json").read_text(encoding="utf-8")))
    (losses, kinds, weights), (losses_2, kinds_2, weights_2) = found
    assert losses_2 == pytest.approx(losses, rel=1e-4)
    for one, other in zip(kinds, kinds_2, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for name, values in weights.items():
        assert weights_2[name] == pytest.approx(values, abs=2e-4)
