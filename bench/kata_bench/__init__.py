"""The figures of the project, measured: one file for each, budgets in `bench/budgets.toml`."""
