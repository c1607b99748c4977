"""One module per task: `blocks(collection, out)` returns what its section shows beside the common parts."""
