"""Main memory, as far as cgroups of either version let it be used."""

from pathlib import Path

import psutil
import pytest

from ollama_gate.errors import CardError
from ollama_gate.gpu import SystemMemory
from ollama_gate.gpu.system import unified
from tests.nvml import MIB


def test_main_memory_is_what_the_system_says(tmp_path: Path) -> None:
    reading = SystemMemory(own_cgroup=tmp_path / "none").read()
    assert reading.total_bytes == psutil.virtual_memory().total
    assert 0 < reading.used_bytes < reading.total_bytes
    assert (reading.source, reading.device) == ("system", "main memory")


def test_a_system_that_does_not_tell_is_no_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    with pytest.raises(CardError, match="does not tell its memory"):
        SystemMemory().read()


def cgroup(folder: Path, limit: str, used_bytes: int, cache_bytes: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (folder / "memory.current").write_text(f"{used_bytes}\n", encoding="ascii")
    stat = f"anon 1\nactive_file {cache_bytes}\ninactive_file {cache_bytes}\n"
    (folder / "memory.stat").write_text(stat, encoding="ascii")


def in_cgroup(tmp_path: Path, path: str) -> SystemMemory:
    own = tmp_path / "own"
    own.write_text(f"1:name=systemd:/x\n0::{path}\n", encoding="ascii")
    return SystemMemory(cgroup_root=tmp_path / "cgroup", own_cgroup=own)


def test_a_cgroups_lower_limit_counts_and_page_cache_does_not(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(64 * MIB), 60 * MIB, cache_bytes=20 * MIB)
    reading = in_cgroup(tmp_path, "/a").read()
    assert reading.total_bytes == 64 * MIB
    assert reading.used_bytes == 20 * MIB


def test_a_limit_further_up_counts_as_well(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a/b", "max", 1 * MIB)
    cgroup(tmp_path / "cgroup/a", str(32 * MIB), 30 * MIB)
    reading = in_cgroup(tmp_path, "/a/b").read()
    assert (reading.total_bytes, reading.used_bytes) == (32 * MIB, 30 * MIB)


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup", str(16 * MIB), 4 * MIB)
    reading = in_cgroup(tmp_path, "/").read()
    assert (reading.total_bytes, reading.used_bytes) == (16 * MIB, 4 * MIB)


def test_no_limit_leaves_what_the_system_says(tmp_path: Path) -> None:
    whole = psutil.virtual_memory().total
    cgroup(tmp_path / "cgroup/a", "max", 1 * MIB)
    assert in_cgroup(tmp_path, "/a").read().total_bytes == whole
    cgroup(tmp_path / "cgroup/a", str(2 * whole), 1 * MIB)
    assert in_cgroup(tmp_path, "/a").read().total_bytes == whole
    (tmp_path / "own").write_text("1:cpu:/x\n", encoding="ascii")
    memory = SystemMemory(cgroup_root=tmp_path / "cgroup", own_cgroup=tmp_path / "own")
    assert memory.read().total_bytes == whole


def test_a_cgroup_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(8 * MIB), 9 * MIB)
    reading = in_cgroup(tmp_path, "/a").read()
    assert reading.used_bytes == reading.total_bytes == 8 * MIB


def old_cgroup(folder: Path, limit_bytes: int, used_bytes: int, cache_bytes: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit_bytes}\n", encoding="ascii")
    (folder / "memory.usage_in_bytes").write_text(f"{used_bytes}\n", encoding="ascii")
    # Without `total_` it is the group alone, without those below it.
    stat = f"inactive_file 7\ntotal_active_file {cache_bytes}\ntotal_inactive_file 0\n"
    (folder / "memory.stat").write_text(stat, encoding="ascii")


def in_old_cgroup(tmp_path: Path, path: str) -> SystemMemory:
    own = tmp_path / "own"
    own.write_text(f"5:cpu:/y\n4:hugetlb,memory:{path}\n0::/\n", encoding="ascii")
    return SystemMemory(cgroup_root=tmp_path / "cgroup", own_cgroup=own)


def test_the_old_kind_of_cgroup_limits_as_well(tmp_path: Path) -> None:
    old_cgroup(tmp_path / "cgroup/memory/a", 64 * MIB, 60 * MIB, cache_bytes=40 * MIB)
    old_cgroup(tmp_path / "cgroup/memory", 2**63 - 4096, 900 * MIB)
    reading = in_old_cgroup(tmp_path, "/a").read()
    assert (reading.total_bytes, reading.used_bytes) == (64 * MIB, 20 * MIB)


def test_a_path_of_outside_a_container_leads_to_what_is_mounted(tmp_path: Path) -> None:
    old_cgroup(tmp_path / "cgroup/memory", 32 * MIB, 4 * MIB)
    reading = in_old_cgroup(tmp_path, "/docker/0123").read()
    assert (reading.total_bytes, reading.used_bytes) == (32 * MIB, 4 * MIB)


def test_shared_memory_leaves_a_tenth_to_everything_else(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(100 * MIB), 30 * MIB)
    reading = unified(in_cgroup(tmp_path, "/a").read(), "GB10")
    assert (reading.total_bytes, reading.used_bytes) == (90 * MIB, 30 * MIB)
    assert (reading.source, reading.device) == ("system", "GB10")
    assert "90 %" in reading.note


def test_shared_memory_that_is_all_in_use_has_nothing_free(tmp_path: Path) -> None:
    cgroup(tmp_path / "cgroup/a", str(100 * MIB), 99 * MIB)
    reading = unified(in_cgroup(tmp_path, "/a").read(), "GB10")
    assert reading.used_bytes == reading.total_bytes
