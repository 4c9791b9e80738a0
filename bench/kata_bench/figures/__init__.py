"""One file for each measurement: `measure_...(...) -> list[Result]`."""
