"""Settings files of a real agent: what a file forbids is forbidden, and a broken one forbids and says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata_protocols import services
from kata_protocols.status import Code, StatusError
from kata_testing.native import NEEDS, NativeAgent, native_agent
from kata_testing.wire import run_async

pytestmark = pytest.mark.requires(*NEEDS)

DEADLINE_S = 150.0


async def why_refused(agent: NativeAgent, method: str) -> str:
    """The text with which policy's status refuses a call of Kata's service, or of ours."""
    service = (
        services.SANDBOX_SERVICE if method in services.SANDBOX_SERVICE.methods else services.AGENT_SERVICE
    )
    about = service.methods[method]
    with pytest.raises(StatusError) as caught:
        await (await agent.client()).call(about, about.request_type(), timeout_s=60)
    assert caught.value.code is Code.PERMISSION_DENIED
    return caught.value.message


def test_file_s_allow_list_holds_for_kata_s_service_and_ours(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('log_level = "debug"\nserver_addr = "vsock://-1:9"\n')
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "10-lock.toml").write_text(
        '[endpoints]\nallowed = ["GuestDetailsRequest", "LogLevel", "GetGuestDetail"]\n'
    )

    async def body() -> None:
        words = (f"agent.config_file={file}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            await agent.call("GetGuestDetails")
            assert await why_refused(agent, "CreateSandbox") == "CreateSandboxRequest is blocked"
            assert await why_refused(agent, "ReadStderr") == "ReadStreamRequest is blocked"
            assert await why_refused(agent, "LastCalls") == "LastCallsRequest is blocked"
            about = services.SANDBOX_SERVICE.methods["LogLevel"]
            answer = await (await agent.client()).call(about, about.request_type(), timeout_s=60)
            assert answer.level == "debug"
            log = agent.log.read_text()
            assert '"an allowed endpoint that does not exist"' in log
            assert '"GetGuestDetail"' in log
            assert f"{file}: server_addr: not used, PID 1 listens where agent.server_addr=" in log

    run_async(body(), DEADLINE_S)


def test_broken_file_refuses_nearly_everything_and_says_where_it_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('log_level = "debug"\nserver_addr "x"\n')

    async def body() -> None:
        words = (f"agent.config_file={file}",)
        async with native_agent(tmp_path, supervised=True, words=words) as agent:
            await agent.call("GetGuestDetails")
            text = await why_refused(agent, "CreateContainer")
            assert text.startswith(
                f"CreateContainerRequest is blocked: settings: {file} line 2, key server_addr"
            )
            assert "setting not understood" in agent.log.read_text()

    run_async(body(), DEADLINE_S)
