//! Measures making, joining and removing a group: `cargo run --release -p isle-cgroup --example measure`.

use std::time::{Duration, Instant};

use isle_cgroup::{Cgroup, Layout};

fn main() -> Result<(), isle_cgroup::Error> {
    let path = format!("/isle-measure-{}", std::process::id());
    let limits: oci_spec::runtime::LinuxResources =
        serde_json::from_str(include_str!("docker.json")).expect("the file is valid");
    let detect = Instant::now();
    let layout = Layout::detect()?;
    println!("detect {:?}", detect.elapsed());
    let parent = Cgroup::create(&layout, path.as_ref(), &Default::default())?;
    let mut times = [const { Vec::<Duration>::new() }; 4];
    for round in 0..200 {
        let group_path = format!("{path}/{round}");
        let start = Instant::now();
        let group = Cgroup::create(&layout, group_path.as_ref(), &limits)?;
        let created = Instant::now();
        let files = group.join_files()?;
        let opened = Instant::now();
        drop(files);
        let count = Instant::now();
        group.oom_kills()?;
        let counted = Instant::now();
        group.remove()?;
        times[0].push(created - start);
        times[1].push(opened - created);
        times[2].push(counted - count);
        times[3].push(counted.elapsed());
    }
    for (name, times) in ["create", "join files", "oom kills", "remove"]
        .iter()
        .zip(&mut times)
    {
        times.sort();
        println!("{name}: p50 {:?} p99 {:?}", times[100], times[197]);
    }
    parent.remove()
}
