"""Resumed without emulation: clock, random numbers, names and generation, until the answer is there.

Under a PID 1 of fresh namespaces, so that the host name is nobody else's. The host gives no time, and so the clock
stays where the machine has no clock of its host; setting it is one system call.
"""

from __future__ import annotations

import os
import time

from kata_bench.native import check, run_agent
from kata_bench.result import Effort, Result, median_result
from kata_bench.wire import SANDBOX
from kata_protocols.gen import sandbox_pb2 as pb


def measure_repair(effort: Effort) -> list[Result]:
    """`repair` in ms: the first time, as a copy's is, of several agents."""
    samples = []
    notes = ""
    for number in range(effort.pick(10, 1)):
        with run_agent(supervised=True) as agent, agent.connect() as client:
            check(client)
            client.call(SANDBOX, "Quiesce", pb.QuiesceRequest(warm=True), pb.QuiesceResponse)
            request = pb.ResumedRequest(random=os.urandom(512), hostname=f"copy{number}")
            begin = time.perf_counter()
            answer = client.call(SANDBOX, "Resumed", request, pb.ResumedResponse)
            samples.append((time.perf_counter() - begin) * 1e3)
            notes = ", ".join(f"{step.name} {step.duration_us} us" for step in answer.steps)
    return [median_result("repair", samples, notes)]
