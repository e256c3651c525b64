import subprocess

from kvmlab import Host


def partition(pairs) -> set[frozenset[int]]:
    groups: dict[tuple, set[int]] = {}
    for cpu, key in pairs:
        groups.setdefault(key, set()).add(int(cpu))
    return {frozenset(group) for group in groups.values()}


def test_sockets_cores_nodes_and_caches_are_those_of_lscpu():
    columns = {"socket": ["socket"], "core": ["socket", "die", "core"], "node": ["node"], "l1d": ["l1d"], "l2": ["l2"], "l3": ["l3"]}
    command = ["lscpu", "-p=CPU,SOCKET,CORE,NODE,CACHE"]
    lines = [line.split(",") for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()]
    rows = [line for line in lines if not line[0].startswith("#")]
    cpus = Host().cpus()
    online = cpus[cpus["online"]]
    assert [int(row[0]) for row in rows] == online["cpu"].tolist()
    theirs = {"socket": 1, "core": 2, "node": 3}
    for level, place in theirs.items():
        if all(row[place] for row in rows):
            ours = partition((row.cpu, tuple(getattr(row, c) for c in columns[level])) for row in online.itertuples())
            assert ours == partition((row[0], row[place]) for row in rows), level
    for level in ("l1d", "l2", "l3"):
        if online[level].notna().all() and rows[0][4]:
            position = {"l1d": 0, "l2": 2, "l3": 3}[level]
            ours = partition((row.cpu, getattr(row, level)) for row in online.itertuples())
            assert ours == partition((row[0], ":".join(row[4:]).split(":")[position]) for row in rows), level


def test_an_offline_cpu_has_a_row_and_no_topology(tmp_path):
    from kvmlab.columns import frame
    from kvmlab.host import topology
    from kvmlab.host.sysroot import SysRoot

    cpus = tmp_path / "sys/devices/system/cpu"
    for cpu in (0, 1):
        (cpus / f"cpu{cpu}").mkdir(parents=True)
    (cpus / "online").write_text("0\n")
    (cpus / "cpu0/topology").mkdir()
    (cpus / "cpu0/topology/core_id").write_text("7\n")
    (cpus / "cpu0/topology/die_id").write_text("-1\n")
    rows = frame(topology.rows(SysRoot(tmp_path)), "cpus")
    assert rows["online"].tolist() == [True, False]
    assert rows["core"].tolist()[0] == 7 and rows["core"].isna().tolist() == [False, True] and rows["die"].isna().all()
