"""Merging in part: units that stay apart under a budget of multiply-accumulates (PLeaS, arXiv 2407.02447)."""
