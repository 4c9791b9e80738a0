"""How fast a container's standard output comes through ReadStdout in 32 KiB calls, and whether every byte does."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

from kata_bench import container
from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result

_BLOCK_BYTES = 1 << 20


def write_payload(file: Path, blocks: int) -> str:
    """A file of that many MiB, no block like another: its checksum."""
    source = random.Random(1)  # noqa: S311 - the same bytes every time
    digest = hashlib.sha256()
    with file.open("wb") as sink:
        for _ in range(blocks):
            block = source.randbytes(_BLOCK_BYTES)
            digest.update(block)
            sink.write(block)
    return digest.hexdigest()


def measure_stdout(effort: Effort) -> list[Result]:
    """`stdout` in MB/s. RuntimeError when a byte is lost, doubled or changed."""
    blocks = effort.pick(64, 4)
    samples = []
    with run_agent() as agent, agent.connect() as client:
        root = container.make_root(agent.folder / "root")
        expected = write_payload(root / "payload", blocks)
        container.create_sandbox(client)
        for number in range(effort.pick(5, 1)):
            name = f"stdout{number}"
            container.create(client, container.make_request(name, str(root), ["cat", "/payload"]))
            begin = time.perf_counter()
            container.start(client, name)
            pieces = container.read_output(client, name)
            seconds = time.perf_counter() - begin
            container.wait(client, name)
            container.remove(client, name)
            output = b"".join(pieces)
            if hashlib.sha256(output).hexdigest() != expected:
                raise RuntimeError(
                    f"stdout: {len(output)} bytes of {blocks * _BLOCK_BYTES} arrived, or not the same"
                )
            samples.append(len(output) / seconds / 1e6)
    return [median_result("stdout", samples, f"{blocks} MiB, checksum right")]
