"""Checkpoints: whole or not there, whatever breaks and whenever the saver dies."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import ConfigError, RunError
from laconic.train import checkpoint
from laconic.train.checkpoint import find_defect, latest_checkpoint, save_checkpoint, step_of

FILES = {"model.safetensors": b"weights" * 40, "optimizer.pt": b"moments" * 90, "state/sampler.json": b"{}"}
"""Contents of a checkpoint; the step is written into each, so that a mix of two steps shows."""


def fill(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, content in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"%06d " % step + content)

    return write


def save(folder: Path, *steps: int, keep: int = 2) -> None:
    for step in steps:
        save_checkpoint(folder, step, fill(step), keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_whole(path: Path) -> None:
    for name, content in FILES.items():
        assert (path / name).read_bytes() == b"%06d " % step_of(path) + content


def test_a_saved_checkpoint_is_the_latest_and_holds_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    path = save_checkpoint(folder, 7, fill(7), keep=2)
    assert path == folder / "step-000007"
    assert latest_checkpoint(folder) == path
    assert_whole(path)
    assert names(folder) == ["step-000007"]


def test_a_folder_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "missing") is None
    assert latest_checkpoint(tmp_path) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 3, 6, 9, 12, keep=2)
    assert names(tmp_path) == ["step-000009", "step-000012"]
    save(tmp_path, 15, keep=1)
    assert names(tmp_path) == ["step-000015"]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"save.keep is 0 .* at least 1"):
        save(tmp_path, 1, keep=0)


def test_a_broken_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, keep=3)
    (tmp_path / "step-000003" / "optimizer.pt").unlink()
    save(tmp_path, 4, keep=2)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000004"
    assert (tmp_path / "step-000002").is_dir()
    assert not (tmp_path / "step-000001").exists()


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    save_checkpoint(tmp_path, 2, lambda folder: (folder / "other").write_bytes(b"second") and None, keep=2)
    assert names(tmp_path) == ["step-000001", "step-000002"]
    assert (tmp_path / "step-000002" / "other").read_bytes() == b"second"
    assert find_defect(tmp_path / "step-000002") is None


def test_a_broken_checkpoint_is_replaced_when_the_run_comes_by_again(tmp_path: Path) -> None:
    save(tmp_path, 3, 6)
    (tmp_path / "step-000006" / "manifest.json").unlink()
    save(tmp_path, 4, 6)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000006"
    assert names(tmp_path) == ["step-000004", "step-000006"]


@pytest.mark.parametrize("after", ["old aside", "new in place"])
def test_a_kill_while_a_step_is_replaced_leaves_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    save(tmp_path, 2, keep=1)
    rename = Path.rename

    class Killed(BaseException): ...

    def renamed(self: Path, target: Path) -> Path:
        result = rename(self, target)
        if target.name == {"old aside": "step-000002.replaced", "new in place": "step-000002"}[after]:
            raise Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", renamed)
        patched.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            save(tmp_path, 2, keep=1)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert_whole(found)
    save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["step-000002"]


def test_a_manifest_under_another_step_s_name_is_not_loaded(tmp_path: Path) -> None:
    save(tmp_path, 5)
    (tmp_path / "step-000005").rename(tmp_path / "step-000009")
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: (path / "manifest.json").unlink(), "no manifest.json"),
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda path: (path / "optimizer.pt").write_bytes(b"short"), "optimizer.pt has 5 bytes"),
        (lambda path: flip(path / "optimizer.pt", 20), "content of optimizer.pt differs"),
        (lambda path: flip(path / "manifest.json", 20), "manifest.json cannot be used"),
    ],
    ids=["no-manifest", "missing-file", "truncated", "flipped", "manifest-flipped"],
)
def test_a_warning_names_the_broken_checkpoint_and_what_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, break_it: Callable[[Path], None], said: str
) -> None:
    save(tmp_path, 3, 6)
    break_it(tmp_path / "step-000006")
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == tmp_path / "step-000003"
    assert "step-000006" in caplog.text
    assert said in caplog.text


def flip(path: Path, index: int, mask: int = 0x01) -> None:
    content = bytearray(path.read_bytes())
    content[index % len(content)] ^= mask
    path.write_bytes(content)


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
    st.tuples(st.just("truncate"), st.integers(0, 10_000), st.just(0)),
    st.tuples(st.just("append"), st.just(0), st.integers(0, 255)),
    st.tuples(st.just("delete"), st.just(0), st.just(0)),
)


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    save(folder, 1, 2, 3, keep=3)
    return folder


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    damages=st.dictionaries(
        st.tuples(st.sampled_from([2, 3]), st.sampled_from([*FILES, "manifest.json"])), DAMAGE, min_size=1, max_size=4
    )
)
def test_no_damaged_checkpoint_is_loaded_and_an_older_good_one_is(
    three_checkpoints: Path, damages: dict[tuple[int, str], tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoints"
        shutil.copytree(three_checkpoints, folder)
        for (step, name), (kind, index, value) in damages.items():
            path = folder / f"step-{step:06d}" / name
            content = path.read_bytes()
            if kind == "flip":
                flip(path, index, value)
            elif kind == "truncate":
                path.write_bytes(content[: index % len(content)])
            elif kind == "append":
                path.write_bytes(content + bytes([value]))
            else:
                path.unlink()
        untouched = {1, 2, 3} - {step for step, _ in damages}
        found = latest_checkpoint(folder)
        assert found == folder / f"step-{max(untouched):06d}"
        assert_whole(found)


class FullDisk:
    """Every call that puts something on the disk, counted; the one numbered ``fail_at`` and all later ones fail."""

    def __init__(self, fail_at: int) -> None:
        self.calls, self.fail_at = 0, fail_at

    def wrap(self, function: Callable) -> Callable:
        def checked(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.calls > self.fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return checked


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, fail_at: int) -> Iterator[FullDisk]:
    disk = FullDisk(fail_at)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", disk.wrap(Path.mkdir))
        patched.setattr(Path, "write_bytes", disk.wrap(Path.write_bytes))
        patched.setattr(Path, "rename", disk.wrap(Path.rename))
        patched.setattr(os, "fsync", disk.wrap(os.fsync))
        yield disk


def test_a_full_disk_at_any_write_leaves_the_earlier_checkpoint_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "count", 3)
    with full_disk(monkeypatch, fail_at=1_000) as disk:
        save(tmp_path / "count", 6)
    assert disk.calls > 10
    for fail_at in range(disk.calls):
        folder = tmp_path / str(fail_at)
        save(folder, 3)
        with full_disk(monkeypatch, fail_at), pytest.raises(RunError, match=r"No space left on device.*free"):
            save(folder, 6)
        found = latest_checkpoint(folder)
        assert found is not None
        assert_whole(found)
        assert (folder / "step-000003").is_dir()
        assert not [name for name in names(folder) if name.startswith(".tmp")]
        save(folder, 9)
        assert latest_checkpoint(folder) == folder / "step-000009"


def test_the_full_disk_message_names_folder_room_need_and_remedy(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"x" * 2_000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError) as first:
        save_checkpoint(tmp_path, 3, fail, keep=2)
    assert str(tmp_path / "step-000003") in str(first.value)
    assert "more than 2.0 kB needed" in str(first.value)
    assert "starts from the beginning" in str(first.value)
    save(tmp_path, 3)
    with pytest.raises(RunError) as second:
        save_checkpoint(tmp_path, 6, fail, keep=2)
    for phrase in (
        " free",
        "bytes needed, the size of step-000003",
        "Free disk space or lower save.keep",
        "goes on from",
    ):
        assert phrase in str(second.value)
    assert str(second.value).endswith("the same command goes on from step-000003.")


def test_a_real_write_limit_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the operating system itself refuse the write, as a full disk or a quota does."""
    save(tmp_path, 3)
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from laconic.train.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_checkpoint(Path(sys.argv[1]), 6, lambda f: (f / 'a').write_bytes(b'x' * 9000) and None, keep=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "RunError: cannot save" in done.stderr and "File too large" in done.stderr
    assert names(tmp_path) == ["step-000003"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-000003"


def test_ctrl_c_while_saving_passes_through_and_leaves_no_rubbish(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        fill(6)(folder)
        raise KeyboardInterrupt

    save(tmp_path, 3)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 6, interrupted, keep=1)
    assert names(tmp_path) == ["step-000003"]


def test_what_dead_processes_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid in (gone.pid, os.getpid(), os.getppid()):
        fill(2)(tmp_path / f".tmp-step-000002-{pid}")
    save(tmp_path, 3)
    assert names(tmp_path) == [f".tmp-step-000002-{os.getppid()}", "step-000003"]


SAVER = """
import sys
from pathlib import Path
from laconic.train.checkpoint import latest_checkpoint, save_checkpoint, step_of

folder = Path(sys.argv[1])
latest = latest_checkpoint(folder)
step = 0 if latest is None else step_of(latest)
print("ready", flush=True)
while True:
    step += 1
    def write(to):
        for name in "abcdef":
            (to / name).write_bytes(b"%d" % step * 20_000)
    save_checkpoint(folder, step, write, keep=2)
    print("saved", flush=True)
"""


@pytest.mark.soak
def test_a_saver_killed_at_random_never_leaves_a_broken_checkpoint_that_loads(tmp_path: Path) -> None:
    moments = random.Random(20)
    reached = 0
    for _ in range(10):
        # Its own script: importing only what saving needs keeps the ten starts short.
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert saver.stdout is not None
        assert [saver.stdout.readline() for _ in range(2)] == ["ready\n", "saved\n"]
        time.sleep(moments.uniform(0.0, 0.1))
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        saver.stdout.close()
        found = latest_checkpoint(tmp_path)
        assert found is not None and step_of(found) > reached, "a checkpoint that was there is gone"
        reached = step_of(found)
        for name in "abcdef":
            assert (found / name).read_bytes() == b"%d" % reached * 20_000
    save_checkpoint(tmp_path, reached + 1, fill(reached + 1), keep=1)
    assert names(tmp_path) == [f"step-{reached + 1:06d}"]
