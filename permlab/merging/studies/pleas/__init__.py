"""Merging in part, with every control at the same price (PLeaS, arXiv 2407.02447).

from permlab.merging.studies.pleas.arms import arm_rows
from permlab.merging.studies.pleas.budgets import budget_rows
arm_rows(case), budget_rows(case)       # rows: accuracies and multiply-accumulates of every arm
"""
