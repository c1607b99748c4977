"""LoRA adapters out of fine-tuned models: `task=merge task.models=[TUNED] task.ancestor=BASE task.extract_rank=16`.

Nothing is merged: every model of `task.models` becomes artifacts/adapters/NAME, which PEFT loads on the base and
`permlab task=lora_lego task.adapters=[...]` merges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from permlab.config import Config
from permlab.errors import UserError, check_range
from permlab.models.checkpoints import check_tuned, open_checkpoint
from permlab.storage.hub import is_hub_id
from permlab.tasks.merge.language import speaks
from permlab.tasks.merge.settings import MergeConfig

if TYPE_CHECKING:
    from permlab.runs.run import Run


def validate_extraction(config: Config[MergeConfig]) -> None:
    """Check the keys, and the headers of networks on this disk.

    Raises:
        UserError: with the key and the remedy.
    """
    task = config.task
    assert task.extract_rank is not None
    check_range("task.extract_rank", task.extract_rank, 1)
    if not task.models or not task.ancestor:
        raise UserError("task.extract_rank takes what fine-tuning changed: give task.models=[TUNED] task.ancestor=BASE")
    if task.recipe is not None:
        raise UserError(
            "task.extract_rank merges nothing: drop task.recipe, and merge the adapters with task=lora_lego"
        )
    local = [open_checkpoint(path) for path in (task.ancestor, *task.models) if not is_hub_id(path)]
    for each in local:
        if not speaks(each):
            raise UserError(f"{each.path} is no causal language model, whose linear layers task.extract_rank takes")
    if len(local) > len(task.models):
        for each in local[1:]:
            check_tuned(local[0], each)


def plan_extraction(config: Config[MergeConfig]) -> dict[str, Any]:
    """Lines of a dry run."""
    task = config.task
    return {
        "extract": f"adapters of rank {task.extract_rank} from {', '.join(task.models)}, tuned from {task.ancestor}"
    }


def run_extraction(config: Config[MergeConfig], run: Run) -> None:
    """Write one adapter per network, and a table of what each module keeps."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from permlab.adapters.extract import ExtractedAdapter, linear_modules
    from permlab.adapters.settings import LoraSettings
    from permlab.adapters.writing import write_adapter
    from permlab.models.quiet import quiet_transformers

    quiet_transformers()
    task = config.task
    assert task.ancestor is not None and task.extract_rank is not None
    base = open_checkpoint(task.ancestor)
    with torch.device("meta"):
        modules = linear_modules(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.folder)))
    rows, kept, changed = [], 0.0, 0.0
    for path in task.models:
        tuned = open_checkpoint(path)
        adapter = ExtractedAdapter(base, tuned, modules, task.extract_rank, config.seed)
        if not adapter.modules:
            raise UserError(f"{path} names its linear layers differently from its architecture: none was found")
        raw: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": task.ancestor}
        raw |= {"fan_in_fan_out": any(modules.values())}
        folder = run.artifact(f"adapters/{tuned.name}")
        write_adapter(folder, adapter, LoraSettings.from_json(raw))
        rest = adapter.rest()
        for each in [*adapter.changes, *rest]:
            share = each.kept / each.changed if each.changed else 1.0
            rows.append({"network": tuned.name, "tensor": each.name, "changed": each.changed**0.5, "kept": share})
        held, whole = sum(each.kept for each in adapter.changes), sum(each.changed for each in adapter.changes)
        left = sum(each.changed for each in rest)
        kept, changed = kept + held, changed + whole + left
        lost = (
            "" if not rest else f"; {left / (whole + left):.1%} of it is in {len(rest)} other tensors, which it lacks"
        )
        told = f"{held / max(whole, 1e-30):.1%} of the change of {len(adapter.modules)} modules"
        run.say(f"{folder}: rank {task.extract_rank} keeps {told}{lost}")
        run.check_stop()
    run.table(
        "extracted", rows, title="What fine-tuning changed (Frobenius norm), and the share of its square that is kept"
    )
    run.summary(networks=len(task.models), extract_rank=task.extract_rank, kept_energy=kept / max(changed, 1e-30))
