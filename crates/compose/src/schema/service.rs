//! The keys of a service.

use super::short;
use super::top::GRANTS;
use super::{Field, Shape, ignored, key, refused};
use Shape::{
    Any, Bool, Bytes, Command, Duration, Fields, Int, Keyed, Labels, List, Named, Number, OneOf,
    Pairs, Path, Short, Text, Word, Words,
};

/// A service.
pub static SERVICE: Shape = Fields(SERVICE_FIELDS);

static SERVICE_FIELDS: &[Field] = &[
    key("image", Text),
    key("build", Short(short::build, &BUILD)),
    key("command", Command),
    key("entrypoint", Command),
    key("container_name", Text),
    key("hostname", Text),
    key("domainname", Text),
    key("environment", Pairs),
    key("env_file", Short(short::one_or_more, &ENV_FILES)),
    key("working_dir", Text),
    key("user", Word),
    key("group_add", List(&Word)),
    key("init", Bool),
    key("tty", Bool),
    key("stdin_open", Bool),
    key("stop_signal", Text),
    key("stop_grace_period", Duration),
    key("restart", Short(short::restart, &Text)),
    key("scale", Int),
    key("profiles", List(&Text)),
    key("depends_on", Short(short::depends_on, &Named(&DEPENDENCY))),
    key("extends", Short(short::extends, &EXTENDS)),
    key("links", List(&Text)),
    refused(
        "external_links",
        "put both projects on one network, and use its aliases",
    ),
    key("labels", Labels),
    key("label_file", Words),
    key("annotations", Labels),
    key("isolation", Text),
    key("platform", Text),
    key("pull_policy", Text),
    // networks
    key(
        "networks",
        Short(short::service_networks, &Named(&ATTACHMENT)),
    ),
    key("network_mode", Text),
    key("mac_address", Text),
    key("ports", Short(short::ports, &PORTS)),
    key("expose", List(&Word)),
    key("dns", Words),
    key("dns_opt", Words),
    key("dns_search", Words),
    key("extra_hosts", Short(short::extra_hosts, &List(&Text))),
    // files
    key(
        "volumes",
        Keyed(&Short(short::volume, &MOUNT), |node| {
            short::text_of(node, "target")
        }),
    ),
    key("volumes_from", List(&Text)),
    key("tmpfs", Words),
    key("secrets", GRANTS),
    key("configs", GRANTS),
    key("read_only", Bool),
    key("shm_size", Bytes),
    key("storage_opt", Named(&Word)),
    key(
        "devices",
        Keyed(&Short(short::device, &DEVICE), |node| {
            short::text_of(node, "target")
        }),
    ),
    refused("device_cgroup_rules", "name the device with `devices`"),
    // limits
    key("cpus", Number),
    key("cpu_shares", Int),
    key("cpuset", Word),
    refused("cpu_count", "it is a key of Windows; use cpus"),
    refused("cpu_percent", "it is a key of Windows; use cpus"),
    refused("cpu_period", "use cpus"),
    refused("cpu_quota", "use cpus"),
    refused("cpu_rt_runtime", "real-time scheduling is not handed out"),
    refused("cpu_rt_period", "real-time scheduling is not handed out"),
    key("mem_limit", Bytes),
    key("mem_reservation", Bytes),
    key("memswap_limit", Bytes),
    refused(
        "mem_swappiness",
        "control groups of version 2 have no swappiness",
    ),
    refused("oom_kill_disable", "use oom_score_adj"),
    key("oom_score_adj", Int),
    key("pids_limit", Int),
    key("blkio_config", BLKIO),
    key("ulimits", Named(&ULIMIT)),
    key("sysctls", Labels),
    key("deploy", DEPLOY),
    refused("gpus", "make the device nodes available with `devices`"),
    refused(
        "cgroup_parent",
        "limit the service itself, with mem_limit and cpus",
    ),
    // privileges
    key("cap_add", List(&Text)),
    key("cap_drop", List(&Text)),
    key("security_opt", List(&Text)),
    key("privileged", Bool),
    key("pid", Text),
    key("ipc", Text),
    key("uts", Text),
    key("userns_mode", Text),
    key("cgroup", OneOf(&["host", "private"])),
    refused("runtime", "the wall is chosen with `isolation`"),
    refused("credential_spec", "it is a key of Windows"),
    refused(
        "use_api_socket",
        "there is no daemon whose socket could be handed over",
    ),
    refused("models", "Isle runs no language models of its own"),
    refused(
        "provider",
        "services are instances; start other things beside the project",
    ),
    // life
    key("healthcheck", HEALTH),
    key("logging", LOGGING),
    key("attach", Bool),
    key("develop", DEVELOP),
    refused(
        "post_start",
        "put it into the entry point, or run it with `isle compose exec`",
    ),
    refused(
        "pre_stop",
        "handle the stop signal, or run it with `isle compose exec`",
    ),
    key("x-isle", ISLE),
];

/// What the specification lacks.
static ISLE: Shape = Fields(&[
    key("isolation", Text),
    key("egress", Words),
    key("net-rate", Word),
    key("require-kvm", Bool),
]);

static BUILD: Shape = Fields(&[
    key("context", Text),
    key("dockerfile", Text),
    key("dockerfile_inline", Text),
    key("args", Pairs),
    key("target", Text),
    key("ssh", Labels),
    key("secrets", GRANTS),
    ignored("cache_from", List(&Text), "the cache is the store's own"),
    ignored("cache_to", List(&Text), "the cache is the store's own"),
    key("additional_contexts", Labels),
    key("labels", Labels),
    key("network", Text),
    key("no_cache", Bool),
    key("pull", Bool),
    key("platforms", List(&Text)),
    key("privileged", Bool),
    key("tags", List(&Text)),
    key("extra_hosts", Short(short::extra_hosts, &List(&Text))),
    key("shm_size", Bytes),
    key("ulimits", Named(&ULIMIT)),
    key("entitlements", List(&Text)),
    ignored(
        "provenance",
        Word,
        "images of projects are built without attestations",
    ),
    ignored(
        "sbom",
        Word,
        "images of projects are built without attestations",
    ),
    key("isolation", Text),
]);

static ENV_FILES: Shape = Keyed(&Short(short::env_file, &ENV_FILE), |node| {
    short::text_of(node, "path")
});

static ENV_FILE: Shape = Fields(&[
    key("path", Path),
    key("required", Bool),
    key("format", OneOf(&["raw"])),
]);

static DEPENDENCY: Shape = Fields(&[
    key(
        "condition",
        OneOf(&[
            "service_started",
            "service_healthy",
            "service_completed_successfully",
        ]),
    ),
    key("restart", Bool),
    key("required", Bool),
]);

static EXTENDS: Shape = Fields(&[key("service", Text), key("file", Text)]);

static ATTACHMENT: Shape = Fields(&[
    key("aliases", List(&Text)),
    key("ipv4_address", Text),
    key("ipv6_address", Text),
    key("mac_address", Text),
    key("priority", Int),
    ignored(
        "gw_priority",
        Int,
        "the first network, by `priority`, has the default route",
    ),
    refused(
        "interface_name",
        "interfaces are eth0, eth1, … in the order of the networks",
    ),
    refused(
        "link_local_ips",
        "addresses come from the network's subnets",
    ),
    refused("driver_opts", "endpoints have no options"),
]);

static PORTS: Shape = Keyed(&Short(short::long_port, &PORT), short::port_key);

static PORT: Shape = Fields(&[
    key("target", Int),
    key("published", Word),
    key("host_ip", Text),
    key("protocol", OneOf(&["tcp", "udp", "sctp"])),
    ignored("app_protocol", Text, "it is a note for people"),
    ignored("mode", OneOf(&["host", "ingress"]), "there is one host"),
    ignored("name", Text, "it is a note for people"),
]);

static MOUNT: Shape = Fields(&[
    key(
        "type",
        OneOf(&["bind", "volume", "tmpfs", "image", "npipe", "cluster"]),
    ),
    key("source", Text),
    key("target", Text),
    key("read_only", Bool),
    ignored("consistency", Any, "it is a key of other systems"),
    key(
        "bind",
        Fields(&[
            key("propagation", Text),
            key("create_host_path", Bool),
            ignored(
                "selinux",
                Any,
                "files are not relabelled: label the folder once",
            ),
            key(
                "recursive",
                OneOf(&["enabled", "disabled", "writable", "readonly"]),
            ),
        ]),
    ),
    key(
        "volume",
        Fields(&[
            key("nocopy", Bool),
            key("subpath", Text),
            key("labels", Labels),
        ]),
    ),
    key("tmpfs", Fields(&[key("size", Bytes), key("mode", Int)])),
    refused(
        "image",
        "images are not mounted; copy what is needed with a build",
    ),
]);

static DEVICE: Shape = Fields(&[
    key("source", Text),
    key("target", Text),
    key("permissions", Text),
]);

static ULIMIT: Shape = Short(
    short::ulimit,
    &Fields(&[key("soft", Int), key("hard", Int)]),
);

static RATE: Shape = List(&Fields(&[key("path", Text), key("rate", Word)]));
static BLKIO: Shape = Fields(&[
    key("weight", Int),
    key(
        "weight_device",
        List(&Fields(&[key("path", Text), key("weight", Int)])),
    ),
    key("device_read_bps", RATE),
    key("device_write_bps", RATE),
    key("device_read_iops", RATE),
    key("device_write_iops", RATE),
]);

static HEALTH: Shape = Fields(&[
    key("test", Short(short::health_test, &Command)),
    key("interval", Duration),
    key("timeout", Duration),
    key("start_period", Duration),
    key("start_interval", Duration),
    key("retries", Int),
    key("disable", Bool),
]);

static LOGGING: Shape = Fields(&[key("driver", Text), key("options", Named(&Word))]);

static DEPLOY: Shape = Fields(&[
    key(
        "mode",
        OneOf(&["replicated", "replicated-job", "global", "global-job"]),
    ),
    key("replicas", Int),
    key("labels", Labels),
    key(
        "resources",
        Fields(&[
            key(
                "limits",
                Fields(&[key("cpus", Number), key("memory", Bytes), key("pids", Int)]),
            ),
            key(
                "reservations",
                Fields(&[
                    ignored(
                        "cpus",
                        Number,
                        "the host has no queue for CPUs; use cpu_shares",
                    ),
                    key("memory", Bytes),
                    refused("devices", "make the device nodes available with `devices`"),
                    refused("generic_resources", "one host has no resources to place by"),
                ]),
            ),
        ]),
    ),
    key(
        "restart_policy",
        Fields(&[
            key("condition", OneOf(&["none", "on-failure", "any"])),
            key("max_attempts", Int),
            ignored(
                "delay",
                Duration,
                "restarts wait longer each time, as Docker's",
            ),
            ignored(
                "window",
                Duration,
                "a run of ten seconds counts as a success, as Docker's",
            ),
        ]),
    ),
    ignored("endpoint_mode", Any, "it is a key of swarms"),
    ignored("placement", Any, "there is one host"),
    ignored("update_config", Any, "it is a key of swarms"),
    ignored("rollback_config", Any, "it is a key of swarms"),
]);

static DEVELOP: Shape = Fields(&[key(
    "watch",
    List(&Fields(&[
        key("path", Path),
        key(
            "action",
            OneOf(&["rebuild", "sync", "sync+restart", "sync+exec", "restart"]),
        ),
        key("target", Text),
        key("ignore", Words),
        key("include", Words),
        key("initial_sync", Bool),
        key(
            "exec",
            Fields(&[
                key("command", Command),
                key("user", Word),
                key("working_dir", Text),
                key("privileged", Bool),
                key("environment", Pairs),
            ]),
        ),
    ])),
)]);
