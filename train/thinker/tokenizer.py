"""The tiny thinker's tokenizer: one token a character, shared by all procedural tasks."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...rewards.verifiers.answer_part import END_THINK, THINK

CHARACTERS = "0123456789+-*=>,;@"
EOS, PAD = "<eos>", "<pad>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer over ``CHARACTERS`` and the four markers; a foreign character is an error, not a guess.

    The think markers are ordinary added tokens, as in the open reasoning models, so that decoding keeps them when it
    skips special tokens.
    """
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, THINK, END_THINK, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=None))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([PAD, EOS])
    core.add_tokens([AddedToken(THINK, normalized=False), AddedToken(END_THINK, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False, padding_side="left"
    )
