"""Merges written down in mergekit's YAML: `read_recipe("merge.yml").find("model.layers.0.mlp.up_proj.weight")`."""
