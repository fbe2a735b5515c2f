"""The soak itself, on a stand-in for training that takes a second: it hits every phase, and it can fail."""

from __future__ import annotations

import sys
from pathlib import Path

from laconic.benchmarks.soak_kill import PHASES, soak

STAND_IN = """
import json, os, random, sys, time
from pathlib import Path
from laconic.train.checkpoint import latest_checkpoint, save_checkpoint, step_of
from laconic.train.metrics_log import MetricsLog
from laconic.train.run_folder import claim_run_folder

forgetful = sys.argv[1] == "forgetful"
settings = dict(argument.split("=") for argument in sys.argv[2:])
folder = claim_run_folder(Path("runs") / settings["name"], settings)
state, done = random.Random(1), 0
latest = latest_checkpoint(folder.checkpoints)
if latest is not None:
    done = step_of(latest)
    version, numbers, gauss = json.loads((latest / "state.json").read_text())
    if not forgetful:
        state.setstate((version, tuple(numbers), gauss))
metrics = MetricsLog(folder.metrics)
metrics.drop_after(done)

def phase(name):
    Path(os.environ["LACONIC_PHASE_FILE"]).write_text(name)
    time.sleep(0.01)

def write(to):
    (to / "state.json").write_text(json.dumps(state.getstate()))

for step in range(done + 1, int(settings["steps"]) + 1):
    phase("rollout")
    phase("judge")
    phase("update")
    loss = state.random()
    metrics.write({"step": step, "loss": loss, "grad_norm": 1.0, "prompt_ids_hash": hex(step)})
    if step % int(settings["save.every"]) == 0:
        phase("save")
        save_checkpoint(folder.checkpoints, step, write, keep=2)
(folder.path / "model").mkdir(exist_ok=True)
(folder.path / "model" / "model.safetensors").write_text(repr(loss))
"""


def test_kills_meet_every_phase_and_a_run_that_resumes_well_is_equal(tmp_path: Path) -> None:
    report = soak(tmp_path, kills=5, steps=20, seed=3, program=(sys.executable, "-c", STAND_IN, "careful"))
    assert {kill.phase for kill in report.kills} >= set(PHASES) - {"start"}
    assert [kill.phase for kill in report.kills if kill.aimed_at != "start"] == [
        kill.aimed_at for kill in report.kills if kill.aimed_at != "start"
    ]
    assert report.differences == [] and report.moved


def test_a_run_that_forgets_its_random_state_is_found_out(tmp_path: Path) -> None:
    report = soak(tmp_path, kills=2, steps=20, seed=3, program=(sys.executable, "-c", STAND_IN, "forgetful"))
    assert any("loss" in difference for difference in report.differences)
    assert any("final weights" in difference for difference in report.differences)
