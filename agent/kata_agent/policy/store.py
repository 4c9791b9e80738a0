"""The policy in force and its state on disk, so that an agent after this one goes on with both: a policy that were
gone with its agent would fail open.

Owns: two files below one folder. The state names the policy it belongs to: one that was left by an earlier policy is
not taken for the new one's. Must not know: Rego.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import Any


def digest(text: str) -> str:
    """SHA-256 of a policy's text, in hexadecimal."""
    return sha256(text.encode()).hexdigest()


def _describe_state(policy: str, state: str) -> str:
    return f'{{"policy":"{digest(policy)}","state":{state}}}'


class Store:
    """Files below `folder`, on a file system that lives as long as the guest."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def read_policy(self) -> str | None:
        """The policy that was set, None when none was. Raises OSError, ValueError."""
        return self._read("policy.rego")

    def read_state(self, policy: str) -> dict[str, Any] | None:
        """The state that this policy's answers left, None when there is none. Raises OSError, ValueError."""
        text = self._read("state.json")
        if text is None:
            return None
        found = json.loads(text)
        state: dict[str, Any] = found["state"]
        return state if found["policy"] == digest(policy) else None

    def write_policy(self, text: str, state: str) -> None:
        """Keep a policy and the state that it starts with. Raises OSError.

        What may fail comes before anything is replaced, and then the policy first: an agent that dies in between
        leaves a state that is another policy's, which counts as none.
        """
        self._prepare("policy.rego", text)
        self._prepare("state.json", _describe_state(text, state))
        self._replace("policy.rego")
        self._replace("state.json")

    def write_state(self, policy: str, state: str) -> None:
        """Keep a state, JSON text. Raises OSError."""
        self._prepare("state.json", _describe_state(policy, state))
        self._replace("state.json")

    def _read(self, name: str) -> str | None:
        try:
            with open(f"{self._folder}/{name}", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _prepare(self, name: str, text: str) -> None:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        with open(f"{self._folder}/{name}.new", "w", encoding="utf-8") as file:
            file.write(text)

    def _replace(self, name: str) -> None:
        os.replace(f"{self._folder}/{name}.new", f"{self._folder}/{name}")
