//! What a kubelet says to containerd: gRPC on a Unix socket.
//!
//! A unary call of gRPC is one POST of HTTP/2 with a prefix of five bytes before each message, and a status in the
//! trailers ([protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)): curl(1) carries it.
//! The messages are the part of
//! [runtime.v1](https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto) that the recipes need.

use std::collections::HashMap;

use isle_tests::{EngineHost, Invocation};
use prost::Message;

const SOCKET: &str = "/run/containerd/containerd.sock";

/// A call of the runtime service; its answer, or what the status says.
pub(crate) fn call<A: Message + Default>(
    host: &EngineHost,
    method: &str,
    request: &impl Message,
) -> Result<A, String> {
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small message");
    let mut body = vec![0];
    body.extend(length.to_be_bytes());
    body.extend(message);
    let headers = host.folder().join("grpc-headers");
    let url = format!("http://localhost/runtime.v1.RuntimeService/{method}");
    let answer = Invocation::new(host.command(&[
        "curl",
        "--silent",
        "--show-error",
        "--http2-prior-knowledge",
        "--unix-socket",
        SOCKET,
        "--dump-header",
        headers.to_str().expect("an ASCII path"),
        "--header",
        "content-type: application/grpc",
        "--header",
        "te: trailers",
        "--data-binary",
        "@-",
        &url,
    ]))
    .stdin(body)
    .exits_with(0);
    let headers = std::fs::read_to_string(headers).expect("curl has written it");
    let header = |name: &str| {
        let mut values = headers.lines().filter_map(|line| line.strip_prefix(name));
        values.next_back().map(|value| value.trim().to_owned())
    };
    match header("grpc-status:").as_deref() {
        Some("0") => {
            let message = answer.stdout_bytes().get(5..).unwrap_or_default();
            Ok(A::decode(message).expect("an answer of the method"))
        }
        status => Err(format!(
            "{method}: status {status:?}: {}",
            header("grpc-message:").unwrap_or_default()
        )),
    }
}

/// The answer of methods that say nothing.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct VersionResponse {
    #[prost(string, tag = "2")]
    pub(crate) runtime_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMapping {
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodConfig {
    #[prost(message, tag = "1")]
    pub(crate) metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub(crate) hostname: String,
    #[prost(string, tag = "3")]
    pub(crate) log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "6")]
    pub(crate) labels: HashMap<String, String>,
    #[prost(message, tag = "8")]
    pub(crate) linux: Option<LinuxPod>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LinuxPod {
    #[prost(string, tag = "1")]
    pub(crate) cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RunPod {
    #[prost(message, tag = "1")]
    pub(crate) config: Option<PodConfig>,
    #[prost(string, tag = "2")]
    pub(crate) runtime_handler: String,
}

/// Every request that names a pod or container and no more, and every answer that does.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Id {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Stop {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Seconds.
    #[prost(int64, tag = "2")]
    pub(crate) timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Image {
    #[prost(string, tag = "1")]
    pub(crate) image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mount {
    #[prost(string, tag = "1")]
    pub(crate) container_path: String,
    #[prost(string, tag = "2")]
    pub(crate) host_path: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerConfig {
    #[prost(message, tag = "1")]
    pub(crate) metadata: Option<ContainerMetadata>,
    #[prost(message, tag = "2")]
    pub(crate) image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) mounts: Vec<Mount>,
    #[prost(string, tag = "11")]
    pub(crate) log_path: String,
    #[prost(message, tag = "15")]
    pub(crate) linux: Option<LinuxContainer>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LinuxContainer {
    #[prost(message, tag = "1")]
    pub(crate) resources: Option<Resources>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resources {
    #[prost(int64, tag = "3")]
    pub(crate) cpu_shares: i64,
    #[prost(int64, tag = "4")]
    pub(crate) memory_limit_in_bytes: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateContainer {
    #[prost(string, tag = "1")]
    pub(crate) pod: String,
    #[prost(message, tag = "2")]
    pub(crate) config: Option<ContainerConfig>,
    #[prost(message, tag = "3")]
    pub(crate) pod_config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecSync {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) command: Vec<String>,
    /// Seconds; 0: no limit.
    #[prost(int64, tag = "3")]
    pub(crate) timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub(crate) exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerStatus {
    /// 0 created, 1 running, 2 exited.
    #[prost(int32, tag = "3")]
    pub(crate) state: i32,
    #[prost(int32, tag = "7")]
    pub(crate) exit_code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerStatusResponse {
    #[prost(message, tag = "1")]
    pub(crate) status: Option<ContainerStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodNetwork {
    #[prost(string, tag = "1")]
    pub(crate) ip: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodStatus {
    /// 0 ready, 1 not ready.
    #[prost(int32, tag = "3")]
    pub(crate) state: i32,
    #[prost(message, tag = "5")]
    pub(crate) network: Option<PodNetwork>,
    #[prost(string, tag = "9")]
    pub(crate) runtime_handler: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PodStatusResponse {
    #[prost(message, tag = "1")]
    pub(crate) status: Option<PodStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Number {
    #[prost(uint64, tag = "1")]
    pub(crate) value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CpuUsage {
    #[prost(message, tag = "2")]
    pub(crate) usage_core_nano_seconds: Option<Number>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemoryUsage {
    #[prost(message, tag = "2")]
    pub(crate) working_set_bytes: Option<Number>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerStats {
    #[prost(message, tag = "2")]
    pub(crate) cpu: Option<CpuUsage>,
    #[prost(message, tag = "3")]
    pub(crate) memory: Option<MemoryUsage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerStatsResponse {
    #[prost(message, tag = "1")]
    pub(crate) stats: Option<ContainerStats>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateResources {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, tag = "2")]
    pub(crate) linux: Option<Resources>,
}
