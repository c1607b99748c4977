"""From finished runs to tables, figures and one web page: `permlab task=report report.runs=[outputs]`."""
