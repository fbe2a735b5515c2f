"""Run folders: one configuration, one process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from laconic.errors import ConfigError, RunError
from laconic.train.run_folder import MAY_CHANGE, RunFolder, claim_run_folder
from laconic.train.settings import OptimSettings, Settings, as_dict

SETTINGS: dict[str, Any] = {
    "name": "a",
    "model": "tiny-thinker",
    "steps": 20,
    "task": {"names": ("chain", "search"), "file": None},
    "optim": {"lr": 1e-6, "max_grad_norm": float("inf")},
    "save": {"every": 3, "keep": 2},
    "threads": 1,
}


def changed(key: str, value: Any) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.unsafe_load(yaml.dump(SETTINGS))
    *sections, last = key.split(".")
    part = settings
    for section in sections:
        part = part.setdefault(section, {})
    part[last] = value
    return settings


def claim(run: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> RunFolder:
    with claim_run_folder(run, settings, **options) as folder:
        return folder


def test_a_new_run_folder_holds_its_settings(tmp_path: Path) -> None:
    folder = claim(tmp_path / "runs" / "a")
    assert folder.checkpoints == folder.path / "checkpoints"
    written = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert written == changed("task.names", ["chain", "search"])


def test_the_same_settings_take_the_run_up_again(tmp_path: Path) -> None:
    claim(tmp_path / "a")
    before = (tmp_path / "a" / "config.yaml").stat().st_mtime_ns
    claim(tmp_path / "a", changed("task.names", ["chain", "search"]))
    assert (tmp_path / "a" / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.lr", 1e-5, "optim.lr: 1e-06 -> 1e-05"),
        ("task.names", ["chain"], r"task.names: \['chain', 'search'\] -> \['chain'\]"),
        ("task.file", "my.jsonl", "task.file: None -> 'my.jsonl'"),
        ("credit.name", "rloo", "credit.name: ('grpo'|absent) -> 'rloo'|credit: absent ->"),
    ],
)
def test_other_settings_are_refused_by_key_with_old_new_and_remedy(
    tmp_path: Path, key: str, value: Any, said: str
) -> None:
    claim(tmp_path / "a")
    with pytest.raises(ConfigError, match=said) as raised:
        claim(tmp_path / "a", changed(key, value))
    assert "choose another name=..." in str(raised.value) and "delete" in str(raised.value)
    claim(tmp_path / "a")


@pytest.mark.parametrize(("key", "value"), [("steps", 40), ("save.every", 5), ("threads", 2), ("name", "moved")])
def test_settings_that_alter_no_past_step_may_change_and_are_written_down(tmp_path: Path, key: str, value: Any) -> None:
    assert key.split(".")[0] in MAY_CHANGE
    claim(tmp_path / "a")
    claim(tmp_path / "a", changed(key, value))
    written = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert written == changed(key, value) | {"task": {"names": ["chain", "search"], "file": None}}


def test_a_run_of_an_earlier_version_without_a_later_setting_goes_on_and_one_with_another_value_does_not(
    tmp_path: Path,
) -> None:
    settings = as_dict(Settings(model="tiny-thinker"))
    claim(tmp_path / "a", settings)
    file = tmp_path / "a" / "config.yaml"
    earlier = yaml.safe_load(file.read_text())
    del earlier["optim"]["weight_decay"], earlier["adapter"]
    file.write_text(yaml.safe_dump(earlier))
    claim(tmp_path / "a", settings)
    other = as_dict(Settings(model="tiny-thinker", optim=OptimSettings(weight_decay=0.1)))
    with pytest.raises(ConfigError, match=r"optim\.weight_decay: 0\.0 -> 0\.1"):
        claim(tmp_path / "a", other)
    earlier["optim"]["momentum"] = 0.9
    file.write_text(yaml.safe_dump(earlier))
    with pytest.raises(ConfigError, match=r"optim\.momentum: 0\.9 -> absent"):
        claim(tmp_path / "a", settings)


def test_without_resume_an_existing_run_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "a", resume=False)
    with pytest.raises(ConfigError, match="exists; choose another name="):
        claim(tmp_path / "a", resume=False)


def test_a_run_without_its_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"holds checkpoints but no config.yaml"):
        claim(tmp_path / "a")


def test_an_unreadable_config_is_refused_by_name(tmp_path: Path) -> None:
    claim(tmp_path / "a")
    (tmp_path / "a" / "config.yaml").write_text("{")
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read"):
        claim(tmp_path / "a")


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match="cannot write to run folder"):
        claim(tmp_path / "a")


HOLDER = """
import sys, time
from pathlib import Path
from laconic.train.run_folder import claim_run_folder

claim_run_folder(Path(sys.argv[1]), {"steps": 1})
print("ready", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    try:
        with pytest.raises(RunError, match=f"another process is training into .*pid {holder.pid}"):
            claim(tmp_path, {"steps": 1})
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert claim(tmp_path, {"steps": 1}).path == tmp_path
