"""Studies of merging: what to measure on one pair of networks, as rows of tables; no configuration, no run.

    from permlab.merging.studies.lmc.distances import distances
    rows = distances(subject)["distances"]

lmc asks why matching works (arXiv 2402.04051), pleas what merging in part is worth (arXiv 2407.02447), width whether
wide networks need a permutation at all (arXiv 2510.08023). `permlab task=merge task.study=NAME` trains the pairs and
writes the tables.
"""
