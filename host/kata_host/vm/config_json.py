"""A machine's configuration as JSON, for another process or another day."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kata_host.vm.base import Accelerator, GuestFiles, VmConfig


def dump_config(config: VmConfig) -> str:
    """The configuration as text."""
    return json.dumps(asdict(config), default=str)


def load_config(text: str) -> VmConfig:
    """The inverse of `dump_config`. Raises ValueError, KeyError, TypeError."""
    data: dict[str, Any] = json.loads(text)
    guest = {key: Path(value) if value else None for key, value in data.pop("guest").items()}
    share, accelerator = data.pop("share"), data.pop("accelerator")
    return VmConfig(
        guest=GuestFiles(**guest),  # type: ignore[arg-type]  # kernel and initrd are never empty
        share=Path(share) if share else None,
        accelerator=Accelerator(**accelerator) if accelerator else None,
        kernel_args=tuple(data.pop("kernel_args")),
        disks=tuple(Path(disk) for disk in data.pop("disks")),
        nics=tuple(data.pop("nics")),
        **data,
    )
