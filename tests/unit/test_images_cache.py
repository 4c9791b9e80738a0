"""The builder's folder: results appear whole or not at all, one builder at a time, children end with their caller."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kata_images.cache import Cache, key_of
from kata_images.command import require_programs, run
from kata_images.errors import ImageError


def write_one(folder: Path) -> None:
    (folder / "file").write_text("made")


def test_a_result_is_made_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.result("kind", "key", write_one)

    def never(folder: Path) -> None:
        raise AssertionError(folder)

    assert cache.result("kind", "key", never) == first
    assert (first / "file").read_text() == "made"


def test_an_interrupted_result_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted(folder: Path) -> None:
        write_one(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.result("kind", "key", interrupted)
    assert not cache.has("kind", "key")
    assert list((tmp_path / "tmp").iterdir()) == []


WAITER = """
import sys
from pathlib import Path
from kata_images.cache import Cache

with Cache(Path(sys.argv[1])).locked(lambda holder: print(holder, flush=True)):
    print("mine", flush=True)
"""


def test_the_lock_tells_who_holds_it_and_goes_to_who_waits(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WAITER, str(tmp_path)]
    with Cache(tmp_path).locked(pytest.fail):
        waiter = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert waiter.stdout is not None
        # The waiter writes this line only once it found the lock taken.
        assert waiter.stdout.readline() == f"{os.getpid()}\n"
    assert waiter.communicate(timeout=20)[0] == "mine\n"
    assert waiter.returncode == 0


def test_what_a_killed_builder_left_goes_with_the_next_lock(tmp_path: Path) -> None:
    left = tmp_path / "tmp" / "buildroot-x"
    left.mkdir(parents=True)
    with Cache(tmp_path).locked(pytest.fail):
        assert not left.exists()


def test_old_results_go_and_recent_ones_stay(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(5):
        path = cache.result("layers", str(number), write_one)
        os.utime(path, (number, number))
    cache.prune(["layers", "never-made"], keep=2)
    assert sorted(path.name for path in (tmp_path / "layers").iterdir()) == ["3", "4"]


def test_keys_differ_when_inputs_do() -> None:
    assert key_of("a", "b") != key_of("ab", "")
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})


def test_a_failed_program_shows_its_last_lines() -> None:
    with pytest.raises(ImageError, match=r"^sh failed with status 3:\n  said so$"):
        run(["sh", "-c", "echo said so >&2; exit 3"], deadline_s=20)


def test_a_program_past_its_deadline_is_ended() -> None:
    with pytest.raises(ImageError, match="sleep: not done after 0 s"):
        run(["sleep", "60"], deadline_s=0.05)


def test_missing_programs_are_named_with_their_packages() -> None:
    with pytest.raises(ImageError, match=r"no-such-one; install with: apt-get install no-such-one"):
        require_programs(["sh", "no-such-one"])
