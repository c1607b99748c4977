"""Ways to combine matched networks, one file each; the rows are in `permlab.merging.table`."""
