"""Train a causal language model to undo permutations in text: `finetune(model, tokenizer, Prompt(4, shots=0), seed=0)`.

Real tokens: shuffled words, their places as numbers, and the restored words (`prompts.Prompt`, without solved
examples: the weights learn what the examples would show). The loss is that of the answer's tokens only. As in
`prompts`, the answer comes after the input, token by token, so the in-place impossibility theorem does not cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from permlab.diverged import check_losses, check_weights
from permlab.probes.prompts import Prompt, PromptResult, check_context, probe_prompts
from permlab.probes.recipes import TextRecipe
from permlab.probes.schedules import warmup_cosine
from permlab.seeding import derived_seed
from permlab.threads import for_work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_UNSCORED = -100
"""What torch's cross entropy leaves out."""

OnTest = Callable[[int, PromptResult], None]


def batch_of(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, seed: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, attention mask and labels, (size, longest) each, padded on the right.

    Labels are the tokens of the answer and one to end it, and nothing else.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = []
    for index in range(size):
        question, _, answer = prompt.example(seed, index)
        asked = tokenizer(question)["input_ids"]
        rows.append((asked, tokenizer(answer, add_special_tokens=False)["input_ids"] + ends))
    longest = max(len(asked) + len(answered) for asked, answered in rows)
    ids = torch.full((size, longest), pad or 0)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, _UNSCORED)
    for row, (asked, answered) in enumerate(rows):
        whole = len(asked) + len(answered)
        ids[row, :whole] = torch.tensor(asked + answered)
        mask[row, :whole] = 1
        labels[row, len(asked) : whole] = torch.tensor(answered)
    return ids, mask, labels


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    recipe: TextRecipe | None = None,
    seed: int = 0,
    on_test: OnTest | None = None,
    held_out: Prompt | None = None,
) -> list[tuple[int, PromptResult]]:
    """Train on fresh prompts, and test by greedy decoding on fixed ones.

    Args:
        model: a causal LM, changed in place.
        tokenizer: its tokenizer.
        prompt: length and style; without solved examples.
        recipe: steps, batch and rate.
        seed: of the data; a step's batch depends on (seed, step).
        on_test: called with (step, result) after every test, first with step 0; may raise to stop.
        held_out: what is asked in tests, such as other sentences; the same kind of prompt when None.

    Returns:
        Every test, from before the first step to after the last.

    Raises:
        UserError: the prompt does not fit the context.
        DivergedError: the loss left the finite numbers.
    """
    recipe = recipe or TextRecipe()
    recipe.check()
    asked = held_out or prompt
    for one in (prompt, asked):
        check_context(model, tokenizer, one, seed)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, recipe.steps))
    tests: list[tuple[int, PromptResult]] = []
    unchecked: list[Tensor] = []

    def test(step: int) -> None:
        tests.append((step, probe_prompts(model, tokenizer, asked, recipe.test_examples, recipe.batch, seed)))
        if on_test is not None:
            on_test(*tests[-1])

    test(0)
    network: Any = model  # its stubs type a call wrongly
    longest = batch_of(tokenizer, prompt, seed, 1)[0].shape[1]
    with for_work(3.0 * sum(weight.numel() for weight in weights) * recipe.batch * longest):
        for step in range(recipe.steps):
            # Test items are those of `seed` itself: no training item is among them.
            drawn = batch_of(tokenizer, prompt, derived_seed("finetune", seed, step), recipe.batch)
            ids, mask, labels = (part.to(model.device) for part in drawn)
            network.train()
            loss = network(input_ids=ids, attention_mask=mask, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            unchecked.append(loss.detach())
            if (step + 1) % recipe.test_every == 0 or step + 1 == recipe.steps:
                remedy = f"lower learning_rate={recipe.learning_rate:g}"
                check_losses(torch.stack(unchecked)[:, None].tolist(), step + 2 - len(unchecked), remedy)
                check_weights(weights, step + 1, remedy)
                unchecked.clear()
                test(step + 1)
                if tests[-1][1].accuracy >= recipe.target:
                    break
    return tests
