"""Why does matching work? One analysis per file (arXiv 2402.04051, and the questions of its reviewers).

    from permlab.merging.studies.lmc.spectra import spectra
    spectra(subject)["spectra"]             # rows: R(gamma) of every arm, trained and untrained

Every analysis takes a `Subject` and returns its tables, one row per pair (or step, layer, gamma of it). `*_metrics`
picks the numbers of a run from the means over pairs. permlab.tasks.merge.table lists the analyses.
"""
