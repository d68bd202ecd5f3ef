//! The keys of a file, and those of networks, volumes, secrets and configs.

use super::service::SERVICE;
use super::short::{external, include, text_of};
use super::{Shape, ignored, key, refused};
use Shape::{Any, Bool, Fields, Int, Keyed, Labels, List, Named, Path, Short, Text, Word, Words};

/// A file.
pub static PROJECT: Shape = Fields(&[
    ignored(
        "version",
        Any,
        "the key is obsolete, and files of any version are read alike; take it out",
    ),
    key("name", Text),
    key("include", List(&Short(include, &INCLUDE))),
    key("services", Named(&SERVICE)),
    key("networks", Named(&NETWORK)),
    key("volumes", Named(&VOLUME)),
    key("secrets", Named(&SECRET)),
    key("configs", Named(&CONFIG)),
    refused("models", "Isle runs no language models of its own"),
]);

static INCLUDE: Shape = Fields(&[
    key("path", Words),
    key("project_directory", Text),
    key("env_file", Words),
]);

static NETWORK: Shape = Short(
    external,
    &Fields(&[
        key("name", Text),
        key("driver", Text),
        key("driver_opts", Named(&Word)),
        key(
            "ipam",
            Fields(&[
                key("driver", Text),
                key(
                    "config",
                    List(&Fields(&[
                        key("subnet", Text),
                        key("ip_range", Text),
                        key("gateway", Text),
                        key("aux_addresses", Named(&Text)),
                    ])),
                ),
                refused("options", "networks have no options of address management"),
            ]),
        ),
        key("external", Bool),
        key("internal", Bool),
        ignored(
            "attachable",
            Bool,
            "every network can be attached to by hand",
        ),
        key("enable_ipv4", Bool),
        key("enable_ipv6", Bool),
        key("labels", Labels),
    ]),
);

static VOLUME: Shape = Short(
    external,
    &Fields(&[
        key("name", Text),
        key("driver", Text),
        key("driver_opts", Named(&Word)),
        key("external", Bool),
        key("labels", Labels),
    ]),
);

static SECRET: Shape = Short(
    external,
    &Fields(&[
        key("name", Text),
        key("file", Path),
        key("environment", Text),
        key("external", Bool),
        key("labels", Labels),
        refused("driver", "secrets are files and variables of this host"),
        refused(
            "driver_opts",
            "secrets are files and variables of this host",
        ),
        refused("template_driver", "secrets are handed over as they are"),
    ]),
);

static CONFIG: Shape = Short(
    external,
    &Fields(&[
        key("name", Text),
        key("file", Path),
        key("environment", Text),
        key("content", Text),
        key("external", Bool),
        key("labels", Labels),
        refused("template_driver", "configs are handed over as they are"),
    ]),
);

/// A secret or config as a service mounts it.
pub(super) static GRANT: Shape = Short(
    super::short::grant,
    &Fields(&[
        key("source", Text),
        key("target", Text),
        key("uid", Word),
        key("gid", Word),
        key("mode", Int),
    ]),
);

/// Several of them.
pub(super) static GRANTS: Shape = Keyed(&GRANT, |node| {
    let target = text_of(node, "target");
    if target.is_empty() {
        text_of(node, "source")
    } else {
        target
    }
});
