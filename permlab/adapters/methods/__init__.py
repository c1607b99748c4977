"""One file per way to merge the updates of a module; `permlab.adapters.table` has a row for each.

Every function takes `(updates, weights, rank, rule, seed)` and returns factors of that rank whose scaling is 1.
"""
