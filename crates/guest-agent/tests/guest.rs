//! The agent as the first process of a virtual machine.

mod support;

use isle_guest::{Connection, End, WORKLOAD, Workload};
use support::machine::{Machine, parts, prepare};
use support::{outcome, seccomp, spec, streams, user};

#[test]
fn a_workload_runs_in_a_machine_of_its_own() {
    let Some(parts) = parts() else { return };
    let machine = Machine::boot(&parts);
    let mut guest = Connection::open(machine.connect()).unwrap();
    let spec = spec(&[
        "sh",
        "-c",
        "id; uname -r; cat /etc/hostname; hostname; env; echo oops >&2; exit 7",
    ]);
    let (stdio, ends) = streams(false);
    let ann = user("ann");
    let workload = Workload {
        id: "abc",
        spec: &spec,
        user: Some(&ann),
        seccomp: Some(&seccomp()),
    };
    let process = guest.launch(&prepare(), &workload, stdio).unwrap();
    assert_eq!(process.id, WORKLOAD);
    guest.started(&process).unwrap();
    let (ended, out, err) = outcome(&mut guest, &process, ends);
    assert_eq!(ended.end, End::Code(7), "{out}{err}");
    println!("{out}");
    assert!(
        out.starts_with("uid=1000(ann) gid=100(users) groups=10(wheel)"),
        "{out}"
    );
    assert!(out.contains("hostname of the host\n"), "{out}");
    assert!(out.contains("HOME=/home/ann\n"), "{out}");
    assert_eq!(err, "oops\n");
    guest.shut_down().unwrap();
}
