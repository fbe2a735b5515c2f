"""Wider heads compute the same function."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from vllm_models import SIZE

from laconic.errors import ConfigError
from laconic.rollout.engines.vllm_heads import head_width, widen, wider


@pytest.mark.parametrize("width", [8, 24, 40])
@pytest.mark.parametrize("kind", [(Qwen2Config, Qwen2ForCausalLM), (LlamaConfig, LlamaForCausalLM)])
def test_a_model_with_wider_heads_has_the_same_log_probs(kind, width):
    torch.manual_seed(0)
    sizes = {**SIZE, "hidden_size": 4 * width, "num_attention_heads": 4, "tie_word_embeddings": True}
    model = kind[1](kind[0](**sizes)).eval()
    config = wider(model.config)
    assert head_width(config) == {8: 32, 24: 32, 40: 64}[width] and head_width(model.config) == width
    wide = LlamaForCausalLM(config).eval()
    wide.load_state_dict(widen(model.state_dict(), model.config))
    ids = torch.arange(2, 92)[None]
    with torch.no_grad():
        torch.testing.assert_close(wide(ids).logits, model(ids).logits, atol=2e-4, rtol=1e-4)


def test_supported_widths_are_left_alone_and_impossible_ones_refused():
    config = Qwen2Config(**SIZE)
    assert wider(config) is config
    with pytest.raises(ConfigError, match="heads are 264 wide"):
        wider(Qwen2Config(**{**SIZE, "hidden_size": 528}))
