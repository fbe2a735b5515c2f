"""An evaluation end to end on a scripted engine: rows, summary, resuming, caching, comparing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from laconic.errors import ConfigError, DataError, RunError
from laconic.eval.cost import linear_costs
from laconic.eval.hardware import load_hardware
from laconic.eval.model_spec import ModelSpec
from laconic.eval.paired import compare_runs
from laconic.eval.records import read_samples, read_shards, to_samples, write_samples
from laconic.eval.run import EvalResult, evaluate
from laconic.eval.settings import EvalConfig
from laconic.eval.tasks.load import load_problems
from laconic.eval.tasks.problem import Problem
from laconic.eval.tasks.settings import TaskSettings
from laconic.eval.thinking import end_think_ids, think_split
from laconic.rewards.verdict import Item, Judgement
from laconic.rewards.verifiers import judge_item
from laconic.rewards.verifiers.exact import judge
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.train.thinker.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id
PROBLEMS = load_problems(TaskSettings(), "test", 12)
GOLD = {tuple(TOKENIZER(p.prompt)["input_ids"]): p.gold for p in PROBLEMS}


class Judges:
    """The exact verifier in this process."""

    def __init__(self) -> None:
        self.judged = 0

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        self.judged += len(items)
        return [judge(item.response, item.gold) for item in items]


class Killed(BaseException):
    """What a killed run looks like from inside."""


def model(seed: int = 0) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, max_position_embeddings=256, tie_word_embeddings=True,
        )
    )  # fmt: skip


def engine(passes: int = 3, wrong_every: int = 4, calls: list[int] | None = None) -> ScriptedEngine:
    """Thinks ``passes`` passes of four tokens plus one per sample; sample ``wrong_every - 1`` is wrong."""

    def script(context: tuple[int, ...], request: Any) -> list[int]:
        leaf = request.noise.leaf
        if calls is not None:
            calls.append(request.noise.group)
        answer = GOLD[context] if leaf % wrong_every != wrong_every - 1 else "+"
        text = "<think>" + "1+1=" * passes + "2" * leaf + "</think>" + answer
        return [*TOKENIZER(text)["input_ids"], EOS]

    return ScriptedEngine(script, eos_ids=(EOS,))


def engine_of_lengths(length: Any) -> ScriptedEngine:
    """Right answers after as many passes as ``length(group, leaf)`` says."""

    def script(context: tuple[int, ...], request: Any) -> list[int]:
        passes = length(request.noise.group, request.noise.leaf)
        return [*TOKENIZER("<think>" + "1" * passes + "</think>" + GOLD[context])["input_ids"], EOS]

    return ScriptedEngine(script, eos_ids=(EOS,))


def noting(leaves: list[int]) -> ScriptedEngine:
    """The usual engine; notes which samples are asked for."""
    usual = engine()

    def script(context: tuple[int, ...], request: Any) -> Sequence[int]:
        leaves.append(request.noise.leaf)
        return usual.script(context, request)

    return ScriptedEngine(script, eos_ids=(EOS,))


def run(out: Path | None = None, passes: int = 3, **changes: Any) -> EvalResult:
    arguments = {
        "engine": engine(passes), "pool": Judges(), "k": 4, "max_completion": 64, "out_dir": out, "shard_problems": 5,
    } | changes  # fmt: skip
    return evaluate(arguments.pop("model", model()), TOKENIZER, arguments.pop("problems", PROBLEMS), **arguments)


def test_rows_hold_what_was_sampled_and_judged(tmp_path: Path) -> None:
    result = run(tmp_path / "base")
    rows = to_samples(read_samples(tmp_path / "base"))
    assert [(row.problem_id, row.sample_idx) for row in rows] == [(p.id, i) for p in PROBLEMS for i in range(4)]
    row = rows[1]
    assert TOKENIZER.decode(row.response_token_ids) == f"<think>1+1=1+1=1+1=2</think>{PROBLEMS[0].gold}<eos>"
    assert (row.n_response, row.n_think, row.n_answer) == (17, 15, 2)
    assert (row.verdict, row.pred_raw, row.finish_reason, row.run_id) == ("right", PROBLEMS[0].gold, "eos", "base")
    assert row.mean_logprob == -np.arange(1, 18).mean() / 8
    assert rows[3].correct is False and result.accuracy == 0.75
    assert result.samples.equals(read_samples(tmp_path / "base"))


def test_summary_says_what_the_rows_say(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = run(tmp_path / "base", progress=lambda done, total: seen.append((done, total)))
    summary = json.loads((tmp_path / "base" / "summary.json").read_text())
    assert summary == result.summary
    left = sorted(path.name for path in (tmp_path / "base").iterdir())
    assert left == ["eval.json", "run.lock", "samples.parquet", "summary.json"]
    assert seen[0] == (0, 48) and seen[-1] == (48, 48) and seen == sorted(seen)
    overall = summary["overall"]
    assert [block["task"] for block in summary["tasks"]] == ["chain", "search"]
    assert (overall["n"], overall["k"], overall["n_samples"]) == (12, 4, 48)
    assert overall["tokens"]["mean"] == 17.5 and overall["efficiency"]["tpc"] == pytest.approx(17.5 / 0.75)
    assert overall["accuracy"]["pass_at"] == {"1": 0.75, "2": 1.0, "4": 1.0}
    assert overall["accuracy"]["avg_at_k"]["interval"] == "wilson"
    assert overall["health"]["verdicts"] == {"right": 36, "wrong": 12}
    assert [row["level"] for row in overall["levels"]] == [1, 2, 3, 4, 5, 6]
    spec, table = ModelSpec.from_config(model().config), result.samples
    costs = linear_costs(spec, load_hardware(), table["n_prompt"].to_numpy(), table["n_response"].to_numpy())
    assert overall["cost"]["gpu_s"]["64"] == pytest.approx(costs.gpu_s(64).mean(), rel=1e-12)
    assert summary["model"]["parameters"] == model().num_parameters()


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    calls: list[int] = []

    def die(done: int, total: int) -> None:
        if done >= 24:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", engine=engine(calls=calls), progress=die)
    assert len(read_shards(tmp_path / "killed")) == 20
    calls.clear()
    again = run(tmp_path / "killed", engine=engine(calls=calls))
    assert set(calls) == set(range(5, 12))
    without = [name for name in whole.samples.column_names if name != "run_id"]
    assert again.samples.select(without).equals(whole.samples.select(without))
    assert again.summary["overall"] == whole.summary["overall"]
    judges = Judges()
    finished = run(tmp_path / "killed", engine=engine(calls=calls), pool=judges)
    assert judges.judged == 0 and finished.summary["overall"] == whole.summary["overall"]


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ConfigError, match="different: max_completion"):
        run(tmp_path, max_completion=65)
    with pytest.raises(ConfigError, match="the weights or the tokenizer"):
        run(tmp_path, model=model(1))


def test_samples_are_cached_by_weights_and_settings(tmp_path: Path) -> None:
    first = run(tmp_path / "a", cache_dir=tmp_path / "cache")
    judges = Judges()
    second = run(tmp_path / "b", cache_dir=tmp_path / "cache", pool=judges)
    assert judges.judged == 0 and second.summary["cached"] and not first.summary["cached"]
    assert second.summary["overall"] == first.summary["overall"] and second.summary["run_id"] == "b"
    run(None, cache_dir=tmp_path / "cache", pool=judges, seed=1)
    assert judges.judged == 48
    saved = tmp_path / "model"
    model().save_pretrained(saved)
    run(None, cache_dir=tmp_path / "cache", pool=judges, model=saved)
    run(None, cache_dir=tmp_path / "cache", pool=judges, model=str(saved))
    assert judges.judged == 96


def test_a_cache_keeps_the_larger_number_of_samples(tmp_path: Path) -> None:
    judges = Judges()
    cache = {"cache_dir": tmp_path / "cache", "pool": judges}
    run(tmp_path / "small", pool=judges, k=2)
    run(tmp_path / "large", **cache)
    judged = judges.judged
    run(tmp_path / "small", **cache, k=2)  # finished, so that the cache is not even looked at
    assert run(tmp_path / "again", **cache).summary["cached"] and judges.judged == judged
    run(tmp_path / "large", **cache, k=5)
    assert run(tmp_path / "more", **cache, k=5).summary["cached"] and judges.judged == judged + 12


def test_a_cache_that_cannot_be_written_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file, which no folder can be made in")
    result = run(tmp_path / "a", cache_dir=tmp_path / "cache")
    assert json.loads((tmp_path / "a" / "summary.json").read_text()) == result.summary
    assert "the samples are not kept for the next time: cannot write to" in caplog.text


HOLDER = """
import sys, time
from pathlib import Path
from laconic.locking import locked

with locked(Path(sys.argv[1]), "evaluating into", ""):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_the_folder_of_an_evaluation_that_is_under_way(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    try:
        with pytest.raises(RunError, match=f"another process is evaluating into .*pid {holder.pid}.*another folder"):
            run(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    run(tmp_path)
    run(tmp_path, k=5)


def test_truncated_answers_stay_in_the_denominator() -> None:
    result = run(None, max_completion=13)
    tokens = result.summary["overall"]["tokens"]
    assert tokens["trunc_rate"] == 1.0 and tokens["mean"] == 13 and tokens["not_truncated_mean"] is None
    assert result.accuracy == 0 and result.summary["overall"]["efficiency"]["tpc"] is None
    assert result.summary["overall"]["cost"]["gpu_s_per_correct"] == {"1": None, "64": None}
    assert not any(result.samples["think_closed"].to_pylist()) and tokens["think_mean"] == 13


def test_comparison_is_paired_and_refuses_different_settings(tmp_path: Path) -> None:
    run(tmp_path / "base", passes=5)
    run(tmp_path / "new", passes=1)
    found = compare_runs(tmp_path / "base", tmp_path / "new", draws=500)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    overall = found["overall"]
    assert overall["tokens"]["ratio"] == pytest.approx(9.5 / 25.5)
    assert overall["accuracy"]["delta"] == 0 and overall["accuracy"]["verdict"] == "undecided"
    assert overall["aes"]["value"] == pytest.approx(1 - 9.5 / 25.5)
    assert [block["task"] for block in found["tasks"]] == ["chain", "search"]
    assert overall["cost"]["gpu_s_ratio"]["64"] < 1 and len(overall["levels"]) == 6
    assert overall["pass_at"]["1"] == {"base": 0.75, "new": 0.75, "delta": 0}
    run(tmp_path / "other", passes=1, k=2, max_completion=60)
    with pytest.raises(ConfigError, match="k: 4 and 2; cap: 64 and 60"):
        compare_runs(tmp_path / "base", tmp_path / "other")
    loose = compare_runs(tmp_path / "base", tmp_path / "other", allow_different=True, draws=100)
    assert loose["different"] == ["k: 4 and 2", "cap: 64 and 60"] and loose["overall"]["n"] == 12


def test_comparison_refuses_another_number_type_and_another_grader_of_formulas(tmp_path: Path) -> None:
    run(tmp_path / "base", passes=1)
    first = json.loads((tmp_path / "base" / "summary.json").read_text())
    assert first["versions"]["math-verify"] == version("math-verify")

    def refused(verifier: str, dtype: str | None, grader: str | None) -> list[str]:
        """What stops a comparison with the same evaluation, had it been written otherwise."""
        for name, old in (("a", first["model"]["dtype"]), ("b", dtype)):
            summary = json.loads(json.dumps(first))
            summary["settings"]["verifiers"] = [verifier]
            summary["model"]["dtype"] = old
            versions = {"math-verify": "0.9.0", "torch": "2"} if name == "a" else {"math-verify": grader, "torch": "3"}
            summary["versions"] = {package: number for package, number in versions.items() if number}
            shutil.copytree(tmp_path / "base", tmp_path / name, dirs_exist_ok=True)
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        try:
            return list(compare_runs(tmp_path / "a", tmp_path / "b", draws=100)["different"])
        except ConfigError as error:
            return [str(error)]

    assert refused("math", "float32", "0.9.0") == []
    assert "differ in number type: 'float32' and 'bfloat16';" in refused("math", "bfloat16", "0.9.0")[0]
    assert "differ in math-verify: '0.9.0' and '0.8.0';" in refused("math", "float32", "0.8.0")[0]
    assert "differ in math-verify: '0.9.0' and None;" in refused("math", "float32", None)[0]
    assert refused("number", "float32", "0.8.0") == [], "which judges no number"


def test_evaluations_of_earlier_versions_without_what_must_agree_compare(tmp_path: Path) -> None:
    run(tmp_path, passes=1)
    file = tmp_path / "summary.json"
    summary = json.loads(file.read_text())
    del summary["model"]["dtype"], summary["versions"], summary["settings"]["engine"]
    summary["settings"]["verifiers"] = ["math"]
    file.write_text(json.dumps(summary))
    assert compare_runs(tmp_path, tmp_path, draws=100)["different"] == []


def test_a_run_equals_itself(tmp_path: Path) -> None:
    run(tmp_path)
    overall = compare_runs(tmp_path, tmp_path, draws=100)["overall"]
    assert (overall["accuracy"]["delta"], overall["tokens"]["ratio"], overall["aes"]["value"]) == (0, 1, 0)
    assert overall["cost"]["gpu_s_ratio"] == {"1": 1, "64": 1}


def test_unfinished_runs_and_foreign_tasks_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no summary.json"):
        compare_runs(tmp_path, tmp_path)
    run(tmp_path / "a", problems=PROBLEMS[:2])
    run(tmp_path / "b", problems=PROBLEMS[2:4])
    with pytest.raises(ConfigError, match="problems"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="no problem in common"):
        compare_runs(tmp_path / "a", tmp_path / "b", allow_different=True)


def test_problems_that_cannot_be_evaluated_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no problems"):
        run(None, problems=[])
    with pytest.raises(DataError, match="repeat the id"):
        run(None, problems=[PROBLEMS[0], PROBLEMS[0]])
    with pytest.raises(DataError, match="exceeds the context of 1024"):
        run(None, max_completion=1020)
    with pytest.raises(DataError, match="no weights in"):
        run(None, model=tmp_path)


def test_thoughts_end_at_the_last_marker() -> None:
    (end,) = end_think_ids(TOKENIZER, "</think>")
    assert think_split(np.array([5, end, 6, end, 7, 1], np.int32), (end,)) == (4, True)
    assert think_split(np.array([5, 6], np.int32), (end,)) == (2, False)
    assert think_split(np.array([5, 6, 7], np.int32), (5, 6)) == (2, True)
    assert think_split(np.array([5], np.int32), (5, 6)) == (1, False)
    assert think_split(np.empty(0, np.int32), (end,)) == (0, False)
    assert think_split(np.array([5, 6], np.int32), None) == (0, False)


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"top_p": 0.0}, {"temperature": -1.0}, {"batches": ()}, {"margin": 0.0}, {"problems": 0}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="eval"):
        EvalConfig(**wrong)


def test_a_larger_k_takes_the_additional_samples_only(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", k=4)
    run(tmp_path / "grown", k=2)
    leaves: list[int] = []
    again = run(tmp_path / "grown", k=4, engine=noting(leaves))
    assert set(leaves) == {2, 3} and len(leaves) == 24
    # How much of the prompt was cached depends on what ran beside it; everything else is the same.
    shared = [name for name in whole.samples.column_names if name not in ("run_id", "n_prompt_cached")]
    assert again.samples.select(shared).equals(whole.samples.select(shared))
    with pytest.raises(ConfigError, match="holds 4 samples per problem and k is 3"):
        run(tmp_path / "grown", k=3)


def test_a_single_lost_sample_is_taken_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    table = read_samples(tmp_path / "a")
    write_samples(table.take([row for row in range(48) if row not in (5, 30)]), tmp_path / "a" / "samples.parquet")
    leaves: list[int] = []
    again = run(tmp_path / "a", engine=noting(leaves))
    assert leaves == [1, 2] and again.summary["overall"]["accuracy"] == whole.summary["overall"]["accuracy"]


def test_finished_rows_are_written_while_others_are_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laconic.eval.sampler.WRITE_EVERY", 4)

    def die(done: int, total: int) -> None:
        if done == 48:
            raise Killed

    slow = engine_of_lengths(lambda group, leaf: 20 if group == 7 else 1)
    with pytest.raises(Killed):
        run(tmp_path, engine=slow, progress=die, shard_problems=512)
    assert len(read_shards(tmp_path)) == 44


def test_rows_hold_costs_and_what_the_benchmark_was() -> None:
    result = run(None)
    table, spec = result.samples, ModelSpec.from_config(model().config)
    costs = linear_costs(spec, load_hardware(), table["n_prompt"].to_numpy(), table["n_response"].to_numpy())
    assert table["flops"].to_pylist() == costs.flops.tolist()
    assert table["gpu_s_b"].to_pylist() == costs.gpu_s(64).tolist()
    row = to_samples(table)[0]
    assert (row.grade_status, row.extract_source, row.correct_loose, row.n_injected) == ("ok", "answer", True, 0)
    assert {r.benchmark: r.benchmark_rev for r in to_samples(table)}.keys() == {"chain", "search"}


def test_a_box_in_the_thought_counts_loosely_only(chat_tokenizer: Any) -> None:
    judged: list[Item] = []

    class Boxes:
        def judge(self, items: Sequence[Item]) -> list[Judgement]:
            judged.extend(items)
            return [judge_item(item) for item in items]

    opening = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    tokenizer = chat_tokenizer(opening + "{% if add_generation_prompt %}<|assistant|><think>{% endif %}")
    texts = {0: "so \\boxed{2}</think>Answer: 2", 1: "so \\boxed{2}", 2: "so \\boxed{3}", 3: "no"}
    script = ScriptedEngine(
        lambda _context, request: [*tokenizer(texts[request.noise.leaf])["input_ids"], tokenizer.eos_token_id],
        eos_ids=(tokenizer.eos_token_id,),
    )
    asked = [Problem("p", ({"role": "user", "content": "1+1?"},), "2", "mine", verifier="number")]
    result = evaluate(model(), tokenizer, asked, engine=script, pool=Boxes(), k=4, max_completion=64)
    rows = to_samples(result.samples)
    assert [item.response for item in judged[:4]] == ["<think>" + text for text in texts.values()]
    assert [row.verdict for row in rows] == ["right", "unreadable", "unreadable", "unreadable"]
    assert [row.correct_loose for row in rows] == [True, True, False, False]
    assert [row.extract_source for row in rows] == ["answer", "think", None, None]
    assert [row.n_answer for row in rows] == [10, 0, 0, 0]
    overall = result.summary["overall"]
    assert (overall["accuracy"]["loose"], overall["health"]["box_in_think_only"]) == (0.5, 1)
