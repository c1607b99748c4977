"""Adapters of language tasks on a base that was pretrained on other text, merged and asked in three domains.

    from permlab.adapters.real.questions import word_tasks
    tasks = word_tasks("text_classification", tokenizer, seed=0)

`permlab experiment=lora_lego/real` trains and asks them.
"""
