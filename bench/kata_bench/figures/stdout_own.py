"""How fast a container's standard output comes on a connection of its own, and whether every byte does.

The checksum is made after the clock has stopped: the figure shows the agent, not the client.
"""

from __future__ import annotations

import hashlib
import time

from kata_bench import container
from kata_bench.figures.stdout import write_payload
from kata_bench.native import run_agent
from kata_bench.result import Effort, Result, median_result

_FIRST_PORT = 5001


def measure_stdout_own(effort: Effort) -> list[Result]:
    """`stdout-own` in MB/s. RuntimeError when a byte is lost, doubled or changed."""
    blocks = effort.pick(256, 4)
    samples = []
    with run_agent() as agent, agent.connect() as client:
        root = container.make_root(agent.folder / "root")
        expected = write_payload(root / "payload", blocks)
        container.create_sandbox(client)
        for number in range(effort.pick(5, 1)):
            name = f"own{number}"
            request = container.make_request(name, str(root), ["cat", "/payload"])
            request.stdout_port = _FIRST_PORT + number
            with agent.connect_stream(request.stdout_port) as connection:
                container.create(client, request)
                output = bytearray(blocks << 20)
                view = memoryview(output)
                size = 0
                begin = time.perf_counter()
                container.start(client, name)
                while count := connection.recv_into(view[size:] or bytearray(1)):
                    size += count
                seconds = time.perf_counter() - begin
            container.wait(client, name)
            container.remove(client, name)
            if size != len(output) or hashlib.sha256(output).hexdigest() != expected:
                raise RuntimeError(f"stdout-own: {size} bytes of {len(output)} arrived, or not the same")
            samples.append(size / seconds / 1e6)
    return [median_result("stdout-own", samples, f"{blocks} MiB, checksum right")]
