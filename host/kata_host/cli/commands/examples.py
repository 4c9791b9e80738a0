"""`kata-agent-ctl examples`: things to paste for `connect`."""

from __future__ import annotations

import argparse

_TEXT = """\
- Check whether an agent is alive, by a unix socket, an abstract one, vsock, and a VMM's multiplexer:

  kata-agent-ctl connect --server-address unix:///run/kata.sock -c Check
  kata-agent-ctl connect --server-address unix://@/tmp/kata.socket -c Check
  kata-agent-ctl connect --server-address vsock://3:1024 -c Check
  kata-agent-ctl connect --server-address unix:///run/vc/vm/ID/clh.sock --hybrid-vsock -c Check
  kata-agent-ctl connect --server-address hvsock:///run/kata-guest/test/vsock:1024 -c Check

- Several commands on one connection, both ways of writing them:

  kata-agent-ctl connect --server-address ADDR -c CreateSandbox -c GetGuestDetails -c DestroySandbox
  kata-agent-ctl connect --server-address ADDR -c CreateSandbox GetGuestDetails DestroySandbox

- Ask ten times, a second apart:

  kata-agent-ctl connect --server-address ADDR -c 'repeat 10' -c Check -c 'sleep 1s'

- A whole container from a bundle, under an id that is made up once and remembered:

  kata-agent-ctl connect --server-address ADDR --bundle-dir /srv/bundle \\
      -c CreateSandbox -c CreateContainer -c StartContainer -c 'ReadStdout len=4096' -c WaitProcess -c RemoveContainer

- Requests as JSON, given or from a file, without made-up values; answers as JSON:

  kata-agent-ctl connect --server-address ADDR --output json -n \\
      -c 'StatsContainer json://{"container_id":"0123456789abcdef"}' -c 'SetPolicy file:///tmp/policy.json'

- Copy a file into the guest:

  kata-agent-ctl connect --server-address ADDR \\
      -c 'CopyFile json://{"src":"/etc/hosts","dest":"/run/kata-containers/shared/containers/hosts"}'

- Every command:

  kata-agent-ctl connect --server-address ADDR -c list
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb's command line."""
    parser = verbs.add_parser("examples", help="print examples of `connect`")
    parser.set_defaults(run=run)


async def run(_options: argparse.Namespace) -> int:
    """Print them."""
    print(_TEXT, end="")
    return 0
