"""Limits, figures and events of containers' control groups: cgroup v2 only."""
