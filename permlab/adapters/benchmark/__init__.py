"""Question sets, trained adapters, and what becomes of them when they are merged or cut to fewer ranks.

    from permlab.adapters.benchmark.settings import BenchmarkSettings, questions_of
    benchmark = questions_of(BenchmarkSettings(benchmark="knowledge"), seed=0)

`permlab task=lora_lego` runs these in turn and writes tables and figures.
"""
