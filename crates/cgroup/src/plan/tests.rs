//! Golden text of plans.

use std::path::PathBuf;

use super::*;
use crate::Hierarchy;

pub(crate) fn v1_layout() -> Layout {
    let mut hierarchies: Vec<Hierarchy> = [
        "cpu,cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls,net_prio",
        "rdma",
        "name=systemd",
    ]
    .iter()
    .map(|controllers| Hierarchy {
        version: Version::V1,
        mount_point: PathBuf::from("/sys/fs/cgroup").join(controllers),
        controllers: controllers.split(',').map(str::to_owned).collect(),
    })
    .collect();
    hierarchies.push(Hierarchy {
        version: Version::V2,
        mount_point: "/sys/fs/cgroup/unified".into(),
        controllers: Vec::new(),
    });
    Layout::new(hierarchies)
}

pub(crate) fn v2_layout() -> Layout {
    Layout::new(vec![Hierarchy {
        version: Version::V2,
        mount_point: "/sys/fs/cgroup".into(),
        controllers: "cpuset cpu io memory hugetlb pids rdma"
            .split(' ')
            .map(str::to_owned)
            .collect(),
    }])
}

fn plan(layout: &Layout, json: &str) -> String {
    plan_with(layout, json, &Current::default())
}

fn plan_with(layout: &Layout, json: &str, current: &Current) -> String {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    match Plan::new(layout, &resources, current) {
        Ok(plan) => plan.to_string(),
        Err(error) => format!("error: {error}\n"),
    }
}

const EVERYTHING: &str = r#"{
    "memory": {"limit": 536870912, "swap": 1073741824, "reservation": 268435456},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 20000, "idle": 0, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 64},
    "blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 16, "weight": 100}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 100}, {"major": 8, "minor": 16, "rate": 0}]
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "mlx4_0": {"hcaObjects": 1000}}
}"#;

#[test]
fn everything_on_version_1() {
    assert_eq!(
        plan(&v1_layout(), EVERYTHING),
        "\
v1 cpuset: cpuset.cpus = 0-1
v1 cpuset: cpuset.mems = 0
v1 cpu: cpu.shares = 512
v1 cpu: cpu.idle = 0
v1 cpu: cpu.cfs_period_us = 100000
v1 cpu: cpu.cfs_quota_us = 50000
v1 cpu: cpu.cfs_burst_us = 20000
v1 memory: memory.limit_in_bytes = 536870912
v1 memory: memory.memsw.limit_in_bytes = 1073741824
v1 memory: memory.soft_limit_in_bytes = 268435456
v1 pids: pids.max = 64
v1 blkio: blkio.bfq.weight = 500 (else blkio.weight = 500)
v1 blkio: blkio.bfq.weight_device = 8:16 100 (else blkio.weight_device = 8:16 100)
v1 blkio: blkio.throttle.read_bps_device = 8:0 1048576
v1 blkio: blkio.throttle.write_iops_device = 8:0 100
v1 blkio: blkio.throttle.write_iops_device = 8:16 0
v1 hugetlb: hugetlb.2MB.limit_in_bytes = 4194304
v1 hugetlb: hugetlb.2MB.rsvd.limit_in_bytes = 4194304 (if there)
v1 rdma: rdma.max = mlx4_0 hca_object=1000
v1 rdma: rdma.max = mlx5_1 hca_handle=3 hca_object=10000
"
    );
}

#[test]
fn everything_on_version_2() {
    assert_eq!(
        plan(&v2_layout(), EVERYTHING),
        "\
v2 cpuset: cpuset.cpus = 0-1
v2 cpuset: cpuset.mems = 0
v2 cpu: cpu.weight = 59
v2 cpu: cpu.idle = 0
v2 cpu: cpu.max = 50000 100000
v2 cpu: cpu.max.burst = 20000
v2 memory: memory.max = 536870912
v2 memory: memory.swap.max = 536870912
v2 memory: memory.low = 268435456
v2 pids: pids.max = 64
v2 io: io.bfq.weight = 500 (else io.weight = 4950)
v2 io: io.bfq.weight = 8:16 100 (else io.weight = 8:16 910)
v2 io: io.max = 8:0 rbps=1048576
v2 io: io.max = 8:0 wiops=100
v2 io: io.max = 8:16 wiops=max
v2 hugetlb: hugetlb.2MB.max = 4194304
v2 hugetlb: hugetlb.2MB.rsvd.max = 4194304 (if there)
v2 rdma: rdma.max = mlx4_0 hca_object=1000
v2 rdma: rdma.max = mlx5_1 hca_handle=3 hca_object=10000
"
    );
}

#[test]
fn what_docker_writes_for_not_set_writes_nothing() {
    let json = r#"{"memory": {"limit": 0, "swap": 0, "reservation": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0},
        "pids": {"limit": 0}, "blockIO": {"weight": 0}}"#;
    assert_eq!(plan(&v1_layout(), json), "");
    assert_eq!(plan(&v2_layout(), json), "");
}

#[test]
fn no_limit_is_written_as_each_version_has_it() {
    let json = r#"{"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
    assert_eq!(
        plan(&v1_layout(), json),
        "v1 cpu: cpu.cfs_quota_us = -1\n\
         v1 memory: memory.limit_in_bytes = -1\n\
         v1 memory: memory.memsw.limit_in_bytes = -1 (if there)\n\
         v1 pids: pids.max = max\n"
    );
    assert_eq!(
        plan(&v2_layout(), json),
        "v2 cpu: cpu.max = max\n\
         v2 memory: memory.max = max\n\
         v2 memory: memory.swap.max = max (if there)\n\
         v2 pids: pids.max = max\n"
    );
}

#[test]
fn swap_equal_to_memory_is_no_swap() {
    let json = r#"{"memory": {"limit": 1048576, "swap": 1048576}}"#;
    assert!(plan(&v2_layout(), json).contains("memory.swap.max = 0\n"));
    let json = r#"{"memory": {"limit": 1048576, "swap": -1}}"#;
    assert!(plan(&v2_layout(), json).contains("memory.swap.max = max\n"));
}

#[test]
fn a_change_of_swap_or_period_alone_keeps_the_rest() {
    let current = Current {
        cpu_quota: Some("50000".to_owned()),
        memory_limit: Some(100),
    };
    assert_eq!(
        plan_with(
            &v2_layout(),
            r#"{"memory": {"swap": 300}, "cpu": {"period": 20000}}"#,
            &current
        ),
        "v2 cpu: cpu.max = 50000 20000\nv2 memory: memory.swap.max = 200\n"
    );
}

#[test]
fn version_1_alone_has_these() {
    let v1 = v1_layout();
    let v2 = v2_layout();
    for (json, on_v1, on_v2) in [
        (
            r#"{"memory": {"swappiness": 0}}"#,
            "v1 memory: memory.swappiness = 0\n",
            "error: control groups version 2 cannot enforce memory.swappiness\n",
        ),
        (
            r#"{"memory": {"disableOOMKiller": true}}"#,
            "v1 memory: memory.oom_control = 1\n",
            "error: control groups version 2 cannot enforce memory.disableOOMKiller\n",
        ),
        (
            r#"{"cpu": {"realtimeRuntime": 950000, "realtimePeriod": 1000000}}"#,
            "v1 cpu: cpu.rt_period_us = 1000000\nv1 cpu: cpu.rt_runtime_us = 950000\n",
            "error: control groups version 2 cannot enforce cpu.realtimeRuntime\n",
        ),
        (
            r#"{"network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]}}"#,
            "v1 net_cls: net_cls.classid = 1048577\nv1 net_prio: net_prio.ifpriomap = eth0 5\n",
            "error: control groups version 2 cannot enforce network.classID\n",
        ),
    ] {
        assert_eq!(plan(&v1, json), on_v1, "{json}");
        assert_eq!(plan(&v2, json), on_v2, "{json}");
    }
}

#[test]
fn files_of_version_2_are_taken_by_name() {
    let json = r#"{"unified": {"memory.high": "1000", "io.max": "8:0 rbps=1\n8:16 rbps=2"}}"#;
    assert_eq!(
        plan(&v2_layout(), json),
        "v2 unified: io.max = 8:0 rbps=1\n\
         v2 unified: io.max = 8:16 rbps=2\n\
         v2 unified: memory.high = 1000\n"
    );
    for file in ["../x", "memory/max", "", ".x", "memory"] {
        let json = format!(r#"{{"unified": {{"{file}": "1"}}}}"#);
        assert!(
            plan(&v2_layout(), &json).starts_with("error: invalid unified"),
            "{file}"
        );
    }
}

#[test]
fn a_missing_controller_is_named() {
    let layout = Layout::new(vec![]);
    for (json, text) in [
        (
            r#"{"pids": {"limit": 5}}"#,
            "error: this host has no control group controller \"pids\", which pids.limit needs\n",
        ),
        (
            r#"{"devices": [{"allow": false}]}"#,
            "error: this host has no control group controller \"devices\", which devices needs\n",
        ),
    ] {
        assert_eq!(plan(&layout, json), text);
    }
}

#[test]
fn nonsense_is_refused() {
    for (json, text) in [
        (
            r#"{"cpu": {"shares": 1}}"#,
            "invalid cpu.shares \"1\": 2 to 262144",
        ),
        (r#"{"cpu": {"idle": 2}}"#, "invalid cpu.idle \"2\": 0 or 1"),
        (
            r#"{"cpu": {"cpus": "a"}}"#,
            "invalid cpu.cpus \"a\": a list like 0-2,4",
        ),
        (
            r#"{"memory": {"limit": 10, "swap": 5}}"#,
            "invalid memory.swap \"5\": memory plus swap, so at least memory.limit",
        ),
        (
            r#"{"memory": {"swappiness": 101}}"#,
            "invalid memory.swappiness \"101\": 0 to 100",
        ),
        (
            r#"{"blockIO": {"weight": 5}}"#,
            "invalid blockIO.weight \"5\": 10 to 1000",
        ),
        (
            r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}"#,
            "invalid hugepageLimits \"../2MB\": a page size like 2MB or 1GB",
        ),
    ] {
        assert_eq!(
            plan(&v1_layout(), json),
            format!("error: {text}\n"),
            "{json}"
        );
    }
}
