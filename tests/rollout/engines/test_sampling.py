"""From logits and a uniform to a token: worked numbers of the inverse CDF, top-k and top-p."""

import pytest
import torch

from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.sampling import draw, sampling_logp

# probabilities 0.1, 0.2, 0.3, 0.4
LOGITS = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()


def ids_at(uniforms, sampling):
    rows = LOGITS.expand(len(uniforms), 4)
    return draw(rows, sampling, torch.tensor(uniforms, dtype=torch.float64))[0].tolist()


def test_inverse_cdf_takes_the_first_token_whose_cumulated_mass_exceeds_u():
    assert ids_at([1e-9, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, 1 - 1e-9], Sampling()) == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


def test_top_k_keeps_the_k_largest_and_renormalises():
    logp = sampling_logp(LOGITS, Sampling(top_k=2))
    assert logp.exp()[0].tolist() == pytest.approx([0, 0, 3 / 7, 4 / 7], abs=1e-6)
    assert ids_at([1e-9, 0.42, 0.43], Sampling(top_k=2)) == [2, 2, 3]


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    for top_p, kept in [(0.65, [0, 0, 3 / 7, 4 / 7]), (0.75, [0, 2 / 9, 3 / 9, 4 / 9]), (1e-6, [0, 0, 0, 1])]:
        assert sampling_logp(LOGITS, Sampling(top_p=top_p)).exp()[0].tolist() == pytest.approx(kept, abs=1e-6)


def test_temperature_scales_before_top_p():
    # p^2: 1, 4, 9, 16 of 30; the mass of the largest is 0.533
    logp = sampling_logp(LOGITS, Sampling(temperature=0.5, top_p=0.5))
    assert logp.exp()[0].tolist() == pytest.approx([0, 0, 0, 1], abs=1e-6)


def test_greedy_takes_the_largest_and_reports_its_log_prob_at_temperature_1():
    ids, logp = draw(LOGITS, Sampling(temperature=0, top_k=1), torch.tensor([0.01], dtype=torch.float64))
    assert ids.tolist() == [3] and logp.item() == pytest.approx(torch.tensor(0.4).log().item(), abs=1e-6)
    assert logp.dtype == torch.float32


def test_a_token_of_probability_0_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(4, 5)
    ids, _ = draw(logits, Sampling(), torch.tensor([1e-300, 0.5, 0.5 + 1e-12, 1 - 1e-16], dtype=torch.float64))
    assert set(ids.tolist()) <= {1, 3}


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(1.3, top_p=0.8), Sampling(1.0, top_k=3)])
def test_top_k_and_top_p_agree_with_transformers_own(sampling):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(50, 22, generator=torch.Generator().manual_seed(0))
    want = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        want = TopKLogitsWarper(sampling.top_k)(None, want)
    if sampling.top_p < 1:
        want = TopPLogitsWarper(sampling.top_p)(None, want)
    torch.testing.assert_close(sampling_logp(logits, sampling), want.log_softmax(-1), atol=1e-6, rtol=0)


def test_rows_are_drawn_in_pieces_without_a_difference(monkeypatch):
    from laconic.rollout.engines import sampling as module

    generator = torch.Generator().manual_seed(1)
    logits, uniform = torch.randn(11, 22, generator=generator), torch.rand(11, generator=generator).double()
    whole = draw(logits, Sampling(0.9), uniform)
    monkeypatch.setattr(module, "_ELEMENTS", 70)
    for one, other in zip(whole, draw(logits, Sampling(0.9), uniform), strict=True):
        assert torch.equal(one, other)
