"""Texts as units: segmenters, unit orders, ordered training and recall (`permlab task=spt`).

The names of orders and budgets stand here, where the command line can check them without importing numpy.
"""

ORDERS = ("original", "spt", "token_reverse", "word_reverse", "entity_reverse", "random_segment", "word_permute")
BUDGETS = ("replace", "data", "compute")
