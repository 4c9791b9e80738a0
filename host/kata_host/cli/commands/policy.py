"""`kata-agent-ctl policy`: try a policy without a guest, set it in one, read what it decided."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from google.protobuf.message import Message

from kata_host.cli.errors import CliError
from kata_host.cli.table import format_table, format_time
from kata_host.cli.target import DIAL_TIMEOUT_S, add_target_options, find_address, open_service
from kata_host.connect import connect
from kata_host.message_json import JsonMismatch, dump_message
from kata_protocols.gen import agent_pb2
from kata_protocols.gen import sandbox_pb2 as pb

_EPILOG = """examples:
  kata-agent-ctl policy check rules.rego
  kata-agent-ctl policy check rules.rego --request '{"ExecProcess": {"container_id": "web"}}'
  kata-agent-ctl policy check rules.rego --request requests.json      a list of them: state goes from one to the next
  kata-agent-ctl policy set rules.rego --vm test
  kata-agent-ctl policy log --vm test                                 what it refused, and what it printed

`check` ends with 0 when every request is allowed, with 1 when one is not or the policy cannot be used."""

_HEADERS = ("SEQ", "TIME", "CALL", "CONTAINER", "OUTCOME", "SAID")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verbs' command lines."""
    parser = verbs.add_parser(
        "policy", help="check, set and watch a guest's policy", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="evaluate a policy here, without a guest")
    check.add_argument("file", type=Path, metavar="FILE", help="the policy, in Rego")
    check.add_argument(
        "--request", action="append", default=[], metavar="JSON",
        help='{"RequestOrCall": {...}}, a list of such, or a file with one; may be repeated',
    )  # fmt: skip
    check.add_argument("--state", metavar="JSON", help="what data.pstate is at the start (default {})")
    check.add_argument("--json", action="store_true", help="print JSON, one line for each request")
    check.set_defaults(run=run_check)
    put = actions.add_parser("set", help="put a policy in force in a guest")
    put.add_argument("file", type=Path, metavar="FILE", help="the policy, in Rego")
    add_target_options(put)
    put.set_defaults(run=run_set)
    log = actions.add_parser("log", help="show what a guest's policy decided")
    log.add_argument("--after", type=int, default=0, metavar="SEQ", help="only what came after this one")
    log.add_argument("--all", action="store_true", help="what was allowed, too")
    add_target_options(log)
    log.set_defaults(run=run_log)


async def run_check(options: argparse.Namespace) -> int:
    """Evaluate; the engine is imported here, by who needs it."""
    from kata_host.policy_check import check, open_policy, undefined_rules
    from kata_policy.engine import BadPolicyError, EngineError

    requests = _read_requests(options.request)
    state = _read_json(options.state, "--state") if options.state else None
    if state is not None and not isinstance(state, dict):
        raise CliError("--state: want a JSON object", status=2)
    try:
        async with open_policy(_read_text(options.file), state) as policy:
            decisions = await check(policy, requests)
            missing = undefined_rules(policy)
    except BadPolicyError as error:
        raise CliError(f"{options.file}: {error}") from None
    except EngineError as error:
        raise CliError(f"policy engine: {error}; `scripts/image` builds and installs it") from None
    for decision in decisions:
        if options.json:
            print(json.dumps(decision._asdict()))
        else:
            print(f"{decision.rule}: {decision.kind}" + (f": {decision.why}" if decision.why else ""))
            if decision.prints:
                print(f"  printed: {decision.prints}")
    if not requests and not options.json:
        print(f"{options.file}: {len(policy.rules)} rules, {len(policy.constants)} of them constants")
    if missing and not options.json:
        print(f"no rule for: {', '.join(missing)} (such calls are refused)", file=sys.stderr)
    return 0 if all(decision.allowed for decision in decisions) else 1


async def run_set(options: argparse.Namespace) -> int:
    """SetPolicy."""
    text = _read_text(options.file)
    async with await connect(find_address(options), DIAL_TIMEOUT_S) as client:
        await client.set_policy(agent_pb2.SetPolicyRequest(policy=text))
    return 0


async def run_log(options: argparse.Namespace) -> int:
    """Print the journal."""
    async with open_service(options) as service:
        answer = await service.policy_log(options.after)
    shown = [entry for entry in answer.decisions if options.all or entry.outcome != "allowed"]
    if options.json:
        for entry in shown:
            print(json.dumps(dump_message(entry)))
        return 0
    if not answer.source:
        print("no policy is in force")
        return 0
    mode = "audit only: nothing is refused" if answer.audit else "enforced"
    print(f"policy {answer.sha256[:12]} from {answer.source}, {mode}")
    print(f"allowed {sum(answer.allowed.values())} calls, refused {sum(answer.refused.values())}")
    if shown:
        print(format_table(_HEADERS, [_row(entry) for entry in shown]))
    return 0


def _row(entry: pb.PolicyDecision) -> tuple[object, ...]:
    outcome = (
        entry.outcome if entry.enforced or entry.outcome == "allowed" else f"{entry.outcome}, not enforced"
    )
    said = " ".join(f"{entry.why} {entry.prints}".split())
    return (
        entry.sequence,
        format_time(entry.time_ns),
        entry.method,
        entry.container_id or "-",
        outcome,
        said or "-",
    )


def _read_requests(texts: list[str]) -> list[Message]:
    from kata_host.policy_check import read_requests

    found: list[Message] = []
    for text in texts:
        try:
            found.extend(read_requests(_read_json(text, "--request")))
        except JsonMismatch as error:
            raise CliError(f"--request: {error}", status=2) from None
    return found


def _read_json(text: str, option: str) -> object:
    """JSON itself, or a file of it."""
    try:
        return json.loads(text if text.lstrip()[:1] in ("{", "[") else Path(text).read_text())
    except OSError as error:
        raise CliError(f"{option}: {text}: {error.strerror}", status=2) from None
    except ValueError as error:
        raise CliError(f"{option}: no JSON: {error}", status=2) from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}", status=2) from None
    except UnicodeDecodeError as error:
        raise CliError(f"{file}: {error}", status=2) from None
