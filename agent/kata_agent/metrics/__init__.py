"""What `GetMetrics` tells: figures of the agent and of the guest, in Prometheus' text format."""
