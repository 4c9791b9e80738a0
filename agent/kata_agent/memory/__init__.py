"""The memory agent: cold pages given back and memory compacted while nobody waits for either."""
