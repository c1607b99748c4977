"""Figures of `permlab task=merge`: one file per study; every function takes rows of tables and returns a figure."""
