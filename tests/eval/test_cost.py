"""The cost model: parameter counts, FLOPs, bytes and times against published counts and worked numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from laconic.errors import ConfigError, DataError
from laconic.eval.cost import (
    attended,
    decode_flops,
    linear_costs,
    max_concurrency,
    prefill_flops,
    step_bytes,
    step_time,
    tri,
)
from laconic.eval.hardware import load_hardware
from laconic.eval.model_spec import ModelSpec, sliding_window
from laconic.eval.traces import chunked, linear, lockstep_latency, parallel, trace_cost, tree

near = pytest.approx
QWEN = ModelSpec(28, 1536, 12, 2, 128, 8960, 151936, tied=True, qkv_bias=True)
MOE = ModelSpec(
    48, 2048, 32, 4, 128, 6144, 151936, qk_norm=True, experts=128, experts_active=8, expert_ffn=768
)  # fmt: skip
H100 = load_hardware("h100-sxm")
TREE = [(None, 512)] + [((index - 1) // 2, 512) for index in range(1, 15)]


def test_dense_parameters() -> None:
    assert (QWEN.attention_matmul, QWEN.ffn_matmul, QWEN.body()) == (5_505_024, 41_287_680, 1_310_195_712)
    assert (QWEN.small, QWEN.table, QWEN.parameters) == (144_896, 233_373_696, 1_543_714_304)
    untied = ModelSpec(28, 1536, 12, 2, 128, 8960, 151936, qkv_bias=True)
    assert untied.parameters == 1_777_088_000


def test_mixture_parameters_and_experts_read() -> None:
    assert (MOE.parameters, MOE.parameters_active) == (30_532_122_624, 3_353_032_704)
    assert MOE.parameters_active - MOE.table == 3_041_867_776
    assert [MOE.experts_touched(batch) for batch in (1, 8, 64)] == near([8, 51.6199, 125.9423], rel=1e-6)
    assert [MOE.weight_read_bytes(batch) / 1e9 for batch in (1, 8, 64)] == near([6.0837, 25.8429, 59.5098], rel=1e-5)
    assert MOE.kv_bytes_per_token == 98_304


def test_flops() -> None:
    assert (QWEN.attention_flops, QWEN.linear_flops, QWEN.head_flops) == (172_032, 2_620_391_424, 466_747_392)
    decode = {1024: 3_263_299_584, 4096: 3_791_781_888, 8192: 4_496_424_960, 32768: 8_724_283_392}
    assert {context: int(decode_flops(QWEN, 1, context - 1)) for context in decode} == decode
    prefill = {200: 528_002_875_392, 1024: 2_774_029_959_168, 4096: 12_177_051_353_088}
    assert {length: int(prefill_flops(QWEN, length)) for length in prefill} == prefill


def test_bytes() -> None:
    assert (QWEN.kv_bytes_per_token, QWEN.weight_read_bytes()) == (28_672, 3_087_428_608)
    found = [step_bytes(QWEN, *point) for point in ((1, 1024), (64, 1024), (64, 8192))]
    assert found == [3_116_817_408, 4_968_311_808, 18_121_649_152]


@pytest.mark.parametrize(
    ("batch", "context", "microseconds", "per_second"),
    [
        (1, 1024, 930.385, 1074.8),
        (1, 8192, 991.734, 1008.3),
        (8, 1024, 991.734, 8066.7),
        (64, 1024, 1482.530, 43169.4),
        (64, 8192, 5408.900, 11832.4),
        (256, 1024, 3165.260, 80878.0),
        (256, 8192, 18870.738, 13566.0),
    ],
)
def test_decode_step_time(batch: int, context: int, microseconds: float, per_second: float) -> None:
    seconds = step_time(QWEN, H100, batch, context)
    assert 1e6 * seconds == near(microseconds, abs=6e-4) and batch / seconds == near(per_second, abs=0.06)
    assert step_time(QWEN, H100, batch, context, "whole") <= seconds * (1 + 1e-12)


def test_hardware_figures() -> None:
    assert H100.ridge == near(295.343, rel=1e-6) and H100.label == "h100-sxm/idealised"
    assert (max_concurrency(QWEN, H100, 4200), max_concurrency(QWEN, H100, 32_968)) == (572, 72)
    assert max_concurrency(MOE, load_hardware("rtx4090"), 4200) == 0


@pytest.mark.parametrize(
    ("trace", "prefill", "steps", "flops", "read", "peak", "latency", "gpu_s"),
    [
        (linear(200, 1000), 200, 999, 3_732_356_530_176, 20_050_329_600, 34_377_728, 0.927607, 0.0209048),
        (linear(200, 4000), 200, 3999, 14_386_974_130_176, 252_250_521_600, 120_393_728, 3.761782, 0.1334192),
        (linear(200, 8000), 200, 7999, 31_001_578_930_176, 963_258_777_600, 235_081_728, 7.660505, 0.4032618),
        (linear(200, 24576), 200, 24575, 129_189_787_041_792, 8_799_224_627_200, 710_348_800, 25.2764, 2.98106),
        (
            chunked(200, 8192, 4096, 5),
            16_584, 24_571, 149_584_221_929_472, 3_988_368_556_032, 240_586_752, 23.8864, 1.59472,
        ),
        (parallel(200, [2048] * 8), 200, 16_376, 54_531_236_069_376, 574_707_990_528, 475_267_072, None, 0.40791),
        (tree(200, TREE), 200, 7672, 26_345_871_802_368, 355_556_655_104, 225_705_984, None, 0.21715),
    ],
    ids=["1k", "4k", "8k", "24k", "delethink", "parallel", "tree"],
)  # fmt: skip
def test_traces(trace, prefill, steps, flops, read, peak, latency, gpu_s) -> None:  # type: ignore[no-untyped-def]
    found = trace_cost(QWEN, H100, trace, batch=64)
    assert (found.prefill_tokens, found.decode_steps) == (prefill, steps)
    assert (found.flops, found.kv_read, found.peak_kv) == (flops, read, peak)
    assert found.gpu_s == near(gpu_s, rel=1e-5)
    assert latency is None or found.latency == near(latency, rel=2e-6)


def test_branches_decode_in_lockstep() -> None:
    found = [lockstep_latency(QWEN, H100, t) for t in (parallel(200, [2048] * 8), tree(200, TREE), linear(200, 2048))]
    assert found == near([2.05811, 1.99269, 1.90800], rel=3e-6)
    with pytest.raises(ConfigError, match="side by side"):
        lockstep_latency(QWEN, H100, chunked(200, 8192, 4096, 5))


def test_cascade_reads_the_union_of_the_live_contexts() -> None:
    found = trace_cost(QWEN, H100, tree(200, TREE), kv_sharing="cascade")
    assert found.kv_read == 150_677_782_528
    assert found.gpu_s < trace_cost(QWEN, H100, tree(200, TREE)).gpu_s


lengths = st.integers(0, 3000)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(lengths, lengths, lengths)
def test_decoding_in_two_goes_costs_the_same(first: int, second: int, start: int) -> None:
    whole = decode_flops(QWEN, first + second, start)
    assert decode_flops(QWEN, first, start) + decode_flops(QWEN, second, start + first) == whole
    assert tri(first, start) == sum(start + 1 + step for step in range(first))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50))
def test_a_window_bounds_what_a_token_attends_to(n: int, s: int, window: int) -> None:
    spec = ModelSpec(4, 8, 2, 1, 4, 16, 32, window=window, window_layers=4)
    assert attended(spec, n, s) == sum(min(s + 1 + step, window) for step in range(n))
    half = ModelSpec(4, 8, 2, 1, 4, 16, 32, window=window, window_layers=2)
    assert attended(half, n, s) == near((attended(spec, n, s) + tri(n, s)) / 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(1, 128))
def test_trace_identities(prompt: int, responses: list[int], batch: int) -> None:
    one = trace_cost(QWEN, H100, linear(prompt, responses[0]), batch=batch)
    assert trace_cost(QWEN, H100, parallel(prompt, responses[:1]), batch=batch) == one
    # A chain of segments is the same response.
    chain = [(None, responses[0])] + [(index, length) for index, length in enumerate(responses[1:])]
    assert trace_cost(QWEN, H100, tree(prompt, chain), batch=batch) == trace_cost(
        QWEN, H100, linear(prompt, sum(responses)), batch=batch
    )
    many = parallel(prompt, responses)
    none, cascade = (trace_cost(QWEN, H100, many, kv_sharing=kind) for kind in ("none", "cascade"))  # type: ignore[arg-type]
    assert cascade.kv_read <= none.kv_read
    costs = linear_costs(QWEN, H100, prompt, responses[0], (batch,))
    assert (costs.flops[0], costs.kv_read[0], costs.peak_kv[0]) == (one.flops, one.kv_read, one.peak_kv)
    assert (costs.latency[0], costs.gpu_s(batch)[0]) == near((one.latency, one.gpu_s))


def test_sharing_weight_reads_pays_until_the_compute_roof() -> None:
    batches = (1, 2, 8, 64, 256, 295, 400, 1000)
    costs = linear_costs(QWEN, H100, 200, 4000, batches)
    gpu_s = [float(costs.gpu_s(batch)[0]) for batch in batches]
    assert all(left > right for left, right in zip(gpu_s[:6], gpu_s[1:6], strict=False))
    assert gpu_s[-1] == near(gpu_s[-2])
    times = [step_time(QWEN, H100, batch, 1024) for batch in batches]
    assert times == sorted(times)


def test_an_empty_response_costs_its_prefill() -> None:
    costs = linear_costs(QWEN, H100, [200, 200], [0, 1])
    assert costs.flops.tolist() == [528_002_875_392] * 2 and not costs.kv_read.any() and not costs.decode_steps.any()


def test_twelve_thousand_responses_are_priced_one_by_one() -> None:
    rng = np.random.default_rng(0)
    prompt_N, response_N = rng.integers(10, 300, 12_000), rng.integers(1, 4000, 12_000)
    costs = linear_costs(QWEN, H100, prompt_N, response_N)
    index = 7777
    alone = trace_cost(QWEN, H100, linear(int(prompt_N[index]), int(response_N[index])))
    assert costs.gpu_s(64)[index] == near(alone.gpu_s)
    # Reads are quadratic in the length: the mean trace costs more than a trace of the mean length.
    assert costs.kv_read.mean() > linear_costs(QWEN, H100, prompt_N.mean(), response_N.mean()).kv_read[0]


def test_configs_are_read_as_transformers_means_them(tmp_path: Path) -> None:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )  # fmt: skip

    small = dict(
        vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48,
    )  # fmt: skip
    models = [
        Qwen2ForCausalLM(Qwen2Config(**small, tie_word_embeddings=True)),
        Qwen2ForCausalLM(Qwen2Config(**small, tie_word_embeddings=False)),
        Qwen3ForCausalLM(Qwen3Config(**small, head_dim=16, tie_word_embeddings=True)),
        LlamaForCausalLM(LlamaConfig(**small)),
        Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                **small, head_dim=16, moe_intermediate_size=24, num_local_experts=4, num_experts_per_tok=2,
                mlp_only_layers=[1],
            )
        ),
    ]  # fmt: skip
    for model in models:
        assert ModelSpec.from_config(model.config).parameters == model.num_parameters()
    models[2].config.save_pretrained(tmp_path)
    assert ModelSpec.from_config(tmp_path) == ModelSpec.from_config(models[2].config)
    assert ModelSpec.from_config(tmp_path / "config.json").head_dim == 16


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        ("mistral", {}, (8, 3)),
        ("qwen2", {}, (None, 0)),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}, (8, 1)),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}, (None, 0)),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, (8, 2)),
    ],
)
def test_a_config_json_says_which_layers_have_windows(kind: str, options: dict[str, Any], found: Any) -> None:
    raw = {"model_type": kind, "sliding_window": 8, "num_hidden_layers": 3, **options}
    assert sliding_window(raw, 3) == found
    assert sliding_window(AutoConfig.for_model(**raw).to_dict(), 3) == found


@pytest.mark.parametrize(("kind", "tied"), [("gemma", True), ("gpt2", True), ("llama", False), ("unheard-of", False)])
def test_a_config_that_does_not_say_whether_the_head_is_tied_has_its_type_s_default(kind: str, tied: bool) -> None:
    sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    assert ModelSpec.from_config({"model_type": kind, **sizes}).tied is tied
    assert ModelSpec.from_config({"model_type": kind, **sizes, "tie_word_embeddings": not tied}).tied is not tied


def test_bad_configs_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model config"):
        ModelSpec.from_config(tmp_path)
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        ModelSpec.from_config({"model_type": "x", "hidden_size": 8})
    with pytest.raises(ConfigError, match="latent attention"):
        ModelSpec.from_config({"model_type": "deepseek_v3", "kv_lora_rank": 512})
    with pytest.raises(ConfigError, match="'gemma3n_text'.* gives intermediate_size as a list"):
        ModelSpec.from_config(AutoConfig.for_model("gemma3n_text"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="line 1"):
        ModelSpec.from_config(tmp_path)


def test_a_hardware_file_overrides_and_adds(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "h100-sxm: {eta_m: 0.8, price_per_hour: 2.5}\nmine: {peak_flops: 1.0e+12, bandwidth: 1.0e+11, memory: 8.0e+9}\n"
    )
    tuned = load_hardware("h100-sxm", own)
    assert (tuned.bytes_per_s, tuned.price_per_hour, tuned.label) == (0.8 * 3.35e12, 2.5, "h100-sxm/calibrated")
    assert load_hardware("mine", own).tdp is None
    with pytest.raises(ConfigError, match="known: a100-80g-sxm"):
        load_hardware("h1000")
    with pytest.raises(ConfigError, match="peak_flops is None"):
        load_hardware("agx-orin-64g")
    own.write_text("mine: {peak: 1}")
    with pytest.raises(ConfigError, match="unknown key 'peak'"):
        load_hardware("mine", own)
    with pytest.raises(DataError, match="no hardware file"):
        load_hardware("mine", tmp_path / "none.yaml")


def test_pricing_and_statistics_import_no_torch() -> None:
    code = (
        "import sys, json; import laconic.eval.traces, laconic.eval.paired, laconic.eval.settings, "
        "laconic.eval.tasks.local; print(json.dumps('torch' in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) is False
