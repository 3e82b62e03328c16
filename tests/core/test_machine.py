"""Laws of what a process is given, on fake trees of the files that Linux shows."""

from pathlib import Path

from llamahost.core.machine import Machine

GIB = 2**30
MEMINFO = "MemTotal:       67108864 kB\nMemFree:         1024 kB\nMemAvailable:   33554432 kB\n"  # 64 and 32 GiB
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(root: Path, n_cpus: int = 16) -> Machine:
    return Machine.read(root, cpus=frozenset(range(n_cpus)))


def test_without_limits_it_is_the_whole_machine(tmp_path: Path) -> None:
    machine = read(tree(tmp_path, {}))
    assert machine == Machine(n_cpus=16, memory_bytes=64 * GIB, available_bytes=32 * GIB, n_cores=16)


def test_version_2_limits_count_on_every_level(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/pod"
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "proc/self/mountinfo": V2,
        f"{group}/cpu.max": "350000 100000\n",
        f"{group}/memory.max": f"{8 * GIB}\n",
        f"{group}/memory.current": f"{5 * GIB}\n",
        f"{group}/memory.stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file 7\n",
        f"{group}/box/cpu.max": "max 100000\n",
        f"{group}/box/memory.max": "max\n",
    }
    machine = read(tree(tmp_path, files))
    assert machine.n_cpus == 3  # rounded down
    assert machine.memory_bytes == 8 * GIB
    assert machine.available_bytes == 5 * GIB  # file cache that nobody needs is free


def test_the_tightest_level_wins(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/a/cpu.max": "200000 100000",
        "sys/fs/cgroup/a/b/cpu.max": "800000 100000",
        "sys/fs/cgroup/a/memory.max": str(4 * GIB),
        "sys/fs/cgroup/a/b/memory.max": str(6 * GIB),
        "sys/fs/cgroup/a/b/memory.high": str(3 * GIB),
    }
    machine = read(tree(tmp_path, files))
    assert (machine.n_cpus, machine.memory_bytes) == (2, 3 * GIB)


def test_version_1_limits_count(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n",
        "proc/self/mountinfo": V1.format(top="/"),
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
    }
    machine = read(tree(tmp_path, files))
    assert machine.n_cpus == 1  # never none
    assert (machine.memory_bytes, machine.available_bytes) == (2 * GIB, GIB)


def test_a_container_that_sees_only_its_own_group_is_limited_by_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
        "proc/self/mountinfo": V1.format(top="/docker/x"),
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
    }
    machine = read(tree(tmp_path, files))
    assert (machine.n_cpus, machine.memory_bytes) == (2, GIB)


def test_a_group_outside_of_the_mount_is_read_at_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../elsewhere\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/cpu.max": "400000 100000",
    }
    assert read(tree(tmp_path, files)).n_cpus == 4


def test_affinity_limits_below_the_quota(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2, "sys/fs/cgroup/cpu.max": "800000 100000"}
    assert read(tree(tmp_path, files), n_cpus=2).n_cpus == 2


def test_threads_do_not_share_cores(tmp_path: Path) -> None:
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    files = {topology.format(cpu): f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in range(4)}
    machine = read(tree(tmp_path, files), n_cpus=4)
    assert (machine.n_cpus, machine.n_cores, machine.n_threads) == (4, 2, 2)
    assert Machine(n_cpus=3, memory_bytes=1, available_bytes=1).n_threads == 3


def test_nonsense_limits_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "nonsense\n::\n0::/x\n",
        "proc/self/mountinfo": f"short - cgroup2 x\n{V2}",
        "sys/fs/cgroup/x/cpu.max": "100000 0",
        "sys/fs/cgroup/x/memory.max": "lots",
    }
    assert read(tree(tmp_path, files)).n_cpus == 16


def test_this_machine_gives_something() -> None:
    machine = Machine.read()
    assert machine.n_cpus >= 1
    assert 1 <= machine.n_threads <= machine.n_cpus
    assert 0 < machine.available_bytes <= machine.memory_bytes
