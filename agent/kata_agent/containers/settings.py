"""Where a container's things are, and the sizes that are configured. Pure; follows docs/architecture.md."""

from __future__ import annotations

from kata_linux.record import Record


class Settings(Record):
    """Handed down from the agent's configuration."""

    crun_path: str = "/usr/bin/crun"
    base_dir: str = "/run/kata-containers"
    run_dir: str = "/run/kata-agent"
    cgroup_root: str = "/sys/fs/cgroup"
    container_pipe_size_bytes: int = 0
    exact_reads: bool = False
    """Answer reads so that no byte is lost or doubled when the agent dies; for supervised agents."""

    @property
    def crun_root(self) -> str:
        """crun's own state, one folder for each container."""
        return f"{self.run_dir}/crun"

    @property
    def work_root(self) -> str:
        """Our state, one folder for each container."""
        return f"{self.run_dir}/containers"

    def bundle(self, container_id: str) -> str:
        """The container's bundle."""
        return f"{self.base_dir}/{container_id}"

    def hook_report(self, container_id: str) -> str:
        """What guards of hooks write; in the bundle, because no user namespace reaches into the work folder."""
        return f"{self.bundle(container_id)}/hooks"

    def work(self, container_id: str) -> str:
        """Our own files of the container: state, crun's logs, pid files."""
        return f"{self.work_root}/{container_id}"
