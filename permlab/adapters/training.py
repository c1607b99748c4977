"""Train a small Llama and LoRA adapters on question sets, and score them: for the merge benchmarks.

>>> base = build_base(benchmark, sizes, seed=0)
>>> fit(base, list(base.parameters()), Schedule(steps=400, batch=256), benchmark.base, seed=0)
>>> train_adapter(base, benchmark.groups[0], Schedule(steps=300, batch=40), LoraShape(rank=8), 0, 0, "adapter-1")
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from permlab.adapters.benchmark.questions import Benchmark, Group, Questions
from permlab.adapters.benchmark.table import ANSWER_METRICS
from permlab.diverged import check_losses, check_weights
from permlab.models.causal_lm import build_scratch
from permlab.models.causal_lm_config import CausalLMConfig, ScratchConfig
from permlab.storage.folders import replacing_folder
from permlab.threads import for_work

# Called with (steps done, steps in all, loss); may raise to stop.
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Schedule:
    """AdamW without weight decay, linear warm-up, cosine to 5 % of the learning rate; gradients clipped at 1.

    `replayed`: questions of the replay beside every question of a batch, where there is a replay.
    """

    steps: int
    batch: int
    learning_rate: float = 3e-3
    warmup: int = 20
    replayed: float = 1.0

    def factor(self, step: int) -> float:
        """Learning rate of a step, as a share of the peak."""
        ramp = min(1.0, (step + 1) / self.warmup)
        return ramp * max(0.05, 0.5 * (1 + math.cos(math.pi * step / self.steps)))


@dataclass(frozen=True)
class LoraShape:
    """Shape of the adapters that are trained."""

    rank: int = 8
    alpha: float = 16.0
    target_modules: str | list[str] = field(default="all-linear")


def build_base(benchmark: Benchmark, sizes: ScratchConfig, seed: int) -> Any:
    """A Llama with random weights from `seed`, its vocabulary and length those of the benchmark."""
    torch.manual_seed(seed)
    tokens: Any = SimpleNamespace(bos_token_id=1, eos_token_id=1, pad_token_id=0)
    config = CausalLMConfig(scratch=sizes)
    return build_scratch(config, benchmark.vocabulary, max(16, benchmark.tokens), tokens)


def answer_logits(model: Any, questions: Questions) -> tuple[Tensor, Tensor]:
    """Logits (answers, vocabulary) at the marked positions, and the tokens that stand there (answers,)."""
    used = int(questions.answer.any(dim=0).nonzero().max()) + 1
    ids, answer = questions.ids[:, :used].to(model.device), questions.answer[:, :used].to(model.device)
    # The head is applied where an answer is wanted only; over a vocabulary of words it would be most of the work.
    hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    wanted = answer[:, 1:]
    return model.lm_head(hidden[wanted]), ids[:, 1:][wanted]


def fit(
    model: Any,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    questions: Questions,
    seed: int,
    replay: Questions | None = None,
    progress: Progress | None = None,
) -> float:
    """Train on random batches; with `replay`, `schedule.replayed` of its questions are added to each of them.

    Args:
        model: a transformers Llama; trained in place.
        parameters: what is trained.
        schedule: steps, batch size and learning rate.
        questions: training set; taken whole in every step when it has at most `schedule.batch` rows.
        seed: of the batches.
        replay: what must not be forgotten, as wide as the questions.
        progress: called every ten steps and at the end.

    Returns:
        The running mean of the loss, in nats per answer token.

    Raises:
        DivergedError: the loss left the finite numbers.
    """
    rows = min(schedule.batch, len(questions)) * (1.0 if replay is None else 1.0 + schedule.replayed)
    with for_work(3.0 * sum(p.numel() for p in model.parameters()) * rows * questions.ids.shape[1]):
        return _fit(model, list(parameters), schedule, questions, seed, replay, progress)


def _fit(
    model: Any,
    trained: list[nn.Parameter],
    schedule: Schedule,
    questions: Questions,
    seed: int,
    replay: Questions | None,
    progress: Progress | None,
) -> float:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(trained, lr=schedule.learning_rate, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    running, unchecked, remedy = 0.0, [], f"lower learning_rate={schedule.learning_rate:g}"
    for step in range(schedule.steps):
        batch = _draw(questions, schedule.batch, generator)
        if replay is not None:
            # Adapters trained without replay learn "always do my task", and contradict each other in any merge.
            extra = _draw(replay, max(1, round(schedule.replayed * len(batch))), generator)
            batch = Questions(torch.cat([batch.ids, extra.ids]), torch.cat([batch.answer, extra.answer]))
        logits, wanted = answer_logits(model, batch)
        loss = nn.functional.cross_entropy(logits, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        unchecked.append(loss.detach())
        if step % 10 == 9 or step + 1 == schedule.steps:
            losses = torch.stack(unchecked)[:, None].tolist()
            check_losses(losses, step + 2 - len(losses), remedy)
            unchecked.clear()
            value = losses[-1][0]
            running = value if running == 0.0 else 0.8 * running + 0.2 * value
            if progress is not None:
                progress(step + 1, schedule.steps, running)
    check_weights(trained, schedule.steps, remedy)
    return running


@torch.no_grad()
def spread_embeddings(model: Any, tokens: Tensor, seed: int) -> None:
    """Add a random vector of the mean embedding length to each of `tokens`.

    Tokens that a tied softmax had to predict alike lie in one direction, where no adapter of the layers below can
    tell them apart.
    """
    weight = model.get_input_embeddings().weight
    drawn = torch.randn(len(tokens), weight.shape[1], generator=torch.Generator().manual_seed(seed))
    length = weight.norm(dim=1).mean()
    weight[tokens.to(weight.device)] += nn.functional.normalize(drawn, dim=1).to(weight) * length


def train_adapter(
    base: Any,
    group: Group,
    schedule: Schedule,
    shape: LoraShape,
    init_seed: int,
    seed: int,
    folder: str | Path,
    progress: Progress | None = None,
) -> None:
    """Train a PEFT LoRA adapter on a group and save it; the base is left as it was.

    Args:
        base: the model; copied.
        group: training questions, with replay where the group has some.
        schedule: steps, batch size and learning rate.
        shape: rank, alpha and modules.
        init_seed: seed of A; the same for all adapters of the "shared A" regime.
        seed: seed of the batches.
        folder: where the PEFT folder goes, complete or not at all.
        progress: see `fit`.
    """
    import peft

    # PEFT draws A from the global generator and starts B at zero: this seed is all that the shared-A regime shares.
    torch.manual_seed(init_seed)
    alpha: Any = shape.alpha  # PEFT takes any number, and says int
    config = peft.LoraConfig(r=shape.rank, lora_alpha=alpha, target_modules=shape.target_modules, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        # About tied embeddings, which `applied` and `from_pretrained` treat alike, and about names inside transformers.
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(base), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fit(model.get_base_model(), trained, schedule, group.train, seed, group.replay, progress)
    with replacing_folder(folder, replace=True) as part:
        model.save_pretrained(str(part), save_embedding_layers=False)


@torch.no_grad()
def answer_probabilities(model: Any, questions: Questions, batch: int = 128) -> Tensor:
    """Probabilities (answers, vocabulary) of every answer token under teacher forcing."""
    parts = []
    for start in range(0, len(questions), batch):
        logits, _ = answer_logits(model, questions.rows(slice(start, start + batch)))
        parts.append(logits.softmax(dim=-1).cpu())
    return torch.cat(parts)


def score(probabilities: Tensor, questions: Questions, metric: str) -> float:
    """Share of right answers, 0..1, counted as a row of `benchmark.table.ANSWER_METRICS` says: "exact" or "token".

    Raises:
        UserError: an unknown metric.
    """
    row, column = questions.answer.nonzero(as_tuple=True)
    right = probabilities.argmax(dim=-1) == questions.ids[row, column]
    share: float = ANSWER_METRICS[metric].load()(right, row, len(questions))
    return share


def share_of_answers(right: Tensor, row: Tensor, count: int) -> float:
    """Share of questions whose answer tokens are all right.

    Teacher forcing and greedy decoding agree on it: up to the first error they see the same tokens.

    Args:
        right: (answer tokens,) whether each is right.
        row: (answer tokens,) the question each belongs to.
        count: questions.
    """
    wrong = torch.zeros(count).index_add_(0, row, (~right).float())
    return float((wrong == 0).double().mean())


def share_of_tokens(right: Tensor, row: Tensor, count: int) -> float:
    """Share of right answer tokens; see `share_of_answers`."""
    return float(right.double().mean())


def ask(model: Any, questions: Questions, metric: str) -> float:
    """Score of a model on questions."""
    return score(answer_probabilities(model, questions), questions, metric)


def _draw(questions: Questions, count: int, generator: torch.Generator) -> Questions:
    if len(questions) <= count:
        return questions
    return questions.rows(torch.randint(len(questions), (count,), generator=generator))
