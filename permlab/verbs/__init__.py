"""The verbs that only read and tell: help, ls, show, cp and the dry run; `permlab task=spt --help`."""
