"""Tests of how the memory of a machine and of its control groups is read."""

from __future__ import annotations

from pathlib import Path

from minitoolai.engines.memory import Memory, read_memory

MEMINFO = "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    3000000 kB\n"
MACHINE = Memory(4_096_000_000, 3_072_000_000)


def root(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_without_a_control_group_it_is_that_of_the_machine(tmp_path: Path) -> None:
    assert read_memory(root=root(tmp_path, {})) == MACHINE
    assert read_memory(limit_mb=2000, root=tmp_path) == Memory(2_000_000_000, 2_000_000_000)
    assert read_memory(limit_mb=8000, root=tmp_path) == MACHINE


def test_the_tightest_control_group_counts_without_its_cache(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": "2000000000\n",
        "sys/fs/cgroup/outer/memory.current": "1500000000\n",
        "sys/fs/cgroup/outer/memory.stat": "anon 500000000\ninactive_file 1000000000\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
        "sys/fs/cgroup/outer/inner/memory.current": "500000000\n",
    }
    assert read_memory(root=root(tmp_path, files)) == Memory(2_000_000_000, 1_500_000_000)


def test_a_container_finds_its_group_at_the_base(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/of-the-host\n",
        "sys/fs/cgroup/memory.max": "1000000000\n",
        "sys/fs/cgroup/memory.current": "300000000\n",
    }
    assert read_memory(root=root(tmp_path, files)) == Memory(1_000_000_000, 700_000_000)


def test_version_one_is_read_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu:/a\n4:memory:/a\n0::/\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000000000\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "900000000\n",
        "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 500000000\n",
    }
    assert read_memory(root=root(tmp_path, files)) == Memory(1_000_000_000, 600_000_000)


def test_a_machine_without_these_files_still_has_memory(tmp_path: Path) -> None:
    assert read_memory(root=tmp_path).total > 100_000_000
