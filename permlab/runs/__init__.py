"""Run directories, results, tracking, progress and signals; used by `cli` and `tasks` only."""
