"""An assistant on this machine: `LocalAssistant.load("path/to/model", device="cuda")`.

A Hugging Face causal language model, decoded greedily in batches. Code that comes with a model is not run.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from permlab.errors import UserError
from permlab.models.quiet import quiet_transformers
from permlab.text.prompts import Failure, chat_messages, plain_prompt

if TYPE_CHECKING:
    import torch


class LocalAssistant:
    """Greedy decoding with a causal language model; uses its chat template, or a plain few-shot prompt without one."""

    retries_made = 0

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        batch_size: int = 8,
        max_new_tokens: int | None = None,
    ) -> None:
        """Take a loaded model.

        Args:
            model: a `PreTrainedModel` with `generate`; stays on its device.
            tokenizer: its tokenizer, not changed.
            name: cache key; by default the path that the model was loaded from.
            batch_size: texts decoded at a time.
            max_new_tokens: limit of an answer; by default three times the longest text of the batch, and 32.
        """
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size} is out of range: it must be at least 1")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name = name or str(getattr(model, "name_or_path", "")) or type(model).__name__
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(token for token in known if token is not None)

    @classmethod
    def load(
        cls, path: str, *, device: str | torch.device = "cpu", dtype: str = "auto", **settings: Any
    ) -> LocalAssistant:
        """Load model and tokenizer from a directory or hub id.

        Args:
            path: directory or hub id.
            device: where the model runs.
            dtype: auto | float32 | bfloat16 | float16.
            **settings: for the constructor.

        Raises:
            UserError: when it cannot be loaded, with the remedy.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            quiet_transformers()
            tokenizer = AutoTokenizer.from_pretrained(path)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError) as error:
            said = str(error).strip().partition("\n")[0][:200]
            remedy = "give a model directory, or a hub id that this machine can fetch (gated ones: `hf auth login`)"
            raise UserError(f"assistant model {path} cannot be loaded ({said}): {remedy}") from None
        return cls(model.to(device), tokenizer, **{"name": path, **settings})

    def answers(self, texts: Sequence[str]) -> Generator[tuple[int, str | Failure], None, None]:
        """Yield (index, answer) batch by batch, the shortest texts first so that batches need little padding."""
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from zip(batch, self._generate([texts[index] for index in batch]))

    def _prompt(self, text: str) -> list[int]:
        """Return the token ids of the question for one text."""
        if getattr(self.tokenizer, "chat_template", None):
            prompt = self.tokenizer.apply_chat_template(chat_messages(text), tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        ids = list(self.tokenizer(plain_prompt(text))["input_ids"])
        return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids

    def _generate(self, texts: Sequence[str]) -> list[str | Failure]:
        """Decode one batch greedily, padded on the left."""
        import torch

        prompts = [self._prompt(text) for text in texts]
        longest = max(len(self.tokenizer(text)["input_ids"]) for text in texts)
        # Room for a [SEP] after nearly every word: the prompt asks for the smallest meaningful units.
        new = self.max_new_tokens or 3 * longest + 32
        width = max(map(len, prompts))
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit and width + new > limit:
            if len(texts) > 1:  # one long text must not cost the others their answer
                return [answer for text in texts for answer in self._generate([text])]
            return [Failure(f"too long for the model: {width} tokens of prompt and {new} of answer, {limit} fit")]
        ids = torch.tensor([[self._pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self.model.device
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=new,
                # SPT's script sets a temperature without sampling, in effect greedy; a cache of answers needs it too.
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._pad,
                stopping_criteria=self._stopping(width),
            )
        decoded = self.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
        if getattr(self.tokenizer, "chat_template", None):
            return list(decoded)
        return [answer.strip().partition("\n")[0] for answer in decoded]

    def _stopping(self, width: int) -> Any:
        """Return the rule that ends an answer to the plain prompt at its first line feed; None for chat models."""
        from transformers import StoppingCriteria, StoppingCriteriaList

        if getattr(self.tokenizer, "chat_template", None):
            return None
        tokenizer = self.tokenizer

        class EndOfLine(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                import torch

                texts = tokenizer.batch_decode(input_ids[:, width:], skip_special_tokens=True)
                return torch.tensor(
                    ["\n" in text.strip() or text.endswith("\n") for text in texts], device=input_ids.device
                )

        return StoppingCriteriaList([EndOfLine()])
