//! From an instance to an OCI runtime specification: the same at every level that runs Linux
//! processes, whoever carries it out.
//!
//! | file | idea |
//! |---|---|
//! | `spec` | the specification; pure |
//! | `mounts`, `limits`, `capabilities`, `devices` | its parts |
//! | `files` | `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf` |
//! | `sources` | what is bound |
//! | `kept` | what stays of it for further processes |

pub(crate) mod capabilities;
pub(crate) mod devices;
pub(crate) mod files;
pub(crate) mod kept;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod sources;
pub(crate) mod spec;
