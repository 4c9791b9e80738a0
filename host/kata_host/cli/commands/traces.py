"""`kata-agent-ctl traces`: print the spans that a guest sends, in the place of Kata's trace forwarder."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import aclosing, suppress

from kata_host.cli.errors import CliError
from kata_host.cli.table import format_time
from kata_host.cli.target import add_target_options, find_address
from kata_host.spans import TRACE_PORT, find_trace_address, listen_for_spans, receive_spans
from kata_protocols.aio.address import UnixAddress, parse_address
from kata_protocols.span import ERROR, Span

_EPILOG = """examples:
  kata-agent-ctl vm start --name test --kernel-arg agent.trace
  kata-agent-ctl traces --vm test                a line for each call, until Ctrl-C
  kata-agent-ctl traces --vm test --json         a line of JSON for each span
  kata-agent-ctl traces --listen unix:///run/t   for guests whose VMM leads port 10240 there"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser(
        "traces", help="print the spans that a guest sends", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--listen", metavar="URI", help=f"where to listen (default: the guest's port {TRACE_PORT})"
    )
    parser.add_argument(
        "--count", type=int, default=0, metavar="N", help="end after so many spans (default: never)"
    )
    add_target_options(parser)
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Print each span as it comes."""
    try:
        address = (
            parse_address(options.listen) if options.listen else find_trace_address(find_address(options))
        )
    except ValueError as error:
        raise CliError(f"{error}; use --listen", status=2) from None
    left = options.count
    with listen_for_spans(address) as listener:
        try:
            async with aclosing(receive_spans(listener)) as received:
                async for span in received:
                    print(json.dumps(as_json(span)) if options.json else format_span(span), flush=True)
                    left -= 1
                    if left == 0:
                        break
        except ValueError as error:
            raise CliError(f"{address}: {error}") from None
        finally:
            if isinstance(address, UnixAddress):
                with suppress(FileNotFoundError):
                    os.unlink(address.path)
    return 0


def format_span(span: Span) -> str:
    """Time, duration, name, what it was about, and how it failed."""
    took = (span.end_ns - span.start_ns) / 1e6
    container = span.attributes.get("container-id", "-")
    how = f" failed: {span.status_message}" if span.status == ERROR else ""
    return (
        f"{format_time(span.start_ns)}  {took:9.3f} ms  {span.trace_id.hex()}  {span.name} {container}{how}"
    )


def as_json(span: Span) -> dict[str, object]:
    """Ids in hexadecimal, times in nanoseconds since 1970."""
    whole = {key: value.hex() if isinstance(value, bytes) else value for key, value in span._asdict().items()}
    return {**whole, "state": dict(span.state)}
