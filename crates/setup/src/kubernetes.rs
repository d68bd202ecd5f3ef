//! The manifests of Kubernetes: a `RuntimeClass` for each runtime.

use crate::wish::Runtimes;

/// Where they are kept, in `/etc`; `kubectl apply -f` takes them from there.
pub(crate) const FILE: &str = "isle/kubernetes/runtime-classes.yaml";

/// The manifests. A virtual machine costs more than what runs in it: the scheduler is told how much.
pub(crate) fn manifests(runtimes: &Runtimes) -> String {
    let mut text = String::from(crate::plan::OURS);
    for (index, runtime) in runtimes.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        text.push_str(&format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: {name}\nhandler: {name}\n",
            name = runtime.name
        ));
        if runtime.name == "isle-vm" {
            text.push_str("overhead:\n  podFixed:\n    memory: 64Mi\n    cpu: 50m\n");
        }
    }
    text
}
