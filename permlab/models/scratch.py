"""Language models of given sizes with random weights: `llama(ScratchConfig(), {"vocab_size": 300, ...})`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab.models.causal_lm_config import ScratchConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def llama(sizes: ScratchConfig, options: dict[str, Any]) -> PreTrainedModel:
    """Build a Llama whose output layer is its embedding.

    Args:
        sizes: of the blocks.
        options: vocab_size, max_position_embeddings and ids of special tokens.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    made: PreTrainedModel = AutoModelForCausalLM.from_config(
        LlamaConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            tie_word_embeddings=True,
            **options,
        )
    )
    return made


def mixtral(
    sizes: ScratchConfig, options: dict[str, Any], experts: int, chosen: int, balance: float
) -> PreTrainedModel:
    """Build a Mixtral whose output layer is its embedding.

    Args:
        sizes: of the blocks; `intermediate_size` is that of every expert.
        options: as of `llama`.
        experts, chosen: of every layer, and of those for a token.
        balance: factor on the loss that spreads tokens over experts.
    """
    from transformers import AutoModelForCausalLM, MixtralConfig

    made: PreTrainedModel = AutoModelForCausalLM.from_config(
        MixtralConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads,
            num_local_experts=experts,
            num_experts_per_tok=chosen,
            output_router_logits=True,
            router_aux_loss_coef=balance,
            sliding_window=None,
            tie_word_embeddings=True,
            **options,
        )
    )
    return made


def bert(sizes: ScratchConfig, options: dict[str, Any]) -> PreTrainedModel:
    """Build a BERT (arXiv 1810.04805) that fills in masked tokens; no dropout, as the Llama has none.

    Args:
        sizes: of the blocks; every head has keys of its own.
        options: as of `llama`.
    """
    from transformers import AutoModelForMaskedLM, BertConfig

    made: PreTrainedModel = AutoModelForMaskedLM.from_config(
        BertConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=1,
            **options,
        )
    )
    return made
