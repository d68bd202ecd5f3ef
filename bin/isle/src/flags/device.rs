//! `--device host[:inside[:permissions]]`.

use isle_engine::config::Device;

use super::FlagError;

/// A device node of the host, or a directory of such.
pub fn device(text: &str) -> Result<Device, FlagError> {
    let fail = |reason: String| FlagError::new(reason, "write /dev/HOST[:/dev/INSIDE[:rwm]]");
    let is_permissions =
        |text: &str| !text.is_empty() && text.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (*host, *host, *permissions),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, permissions] => (*host, *inside, *permissions),
        _ => return Err(fail(format!("device {text:?} has too many colons"))),
    };
    if !is_permissions(permissions) {
        return Err(fail(format!(
            "device permissions {permissions:?} are not some of r, w and m"
        )));
    }
    for path in [host, inside] {
        let is_plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !is_plain {
            let qualified = path.contains('=');
            return Err(match qualified {
                true => FlagError::new(
                    format!(
                        "device {path:?} is a name of the Container Device Interface, which this version does not have"
                    ),
                    "name device nodes: /dev/…",
                ),
                false => fail(format!("device path {path:?} is not a plain absolute path")),
            });
        }
    }
    Ok(Device {
        host_path: host.into(),
        path: inside.into(),
        permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_a_place_on_the_host_and_inside() {
        let expect = |host: &str, inside: &str, permissions: &str| Device {
            host_path: host.into(),
            path: inside.into(),
            permissions: permissions.into(),
        };
        assert_eq!(
            device("/dev/fuse"),
            Ok(expect("/dev/fuse", "/dev/fuse", "rwm"))
        );
        assert_eq!(device("/dev/a:r"), Ok(expect("/dev/a", "/dev/a", "r")));
        assert_eq!(
            device("/dev/a:/dev/b:rw"),
            Ok(expect("/dev/a", "/dev/b", "rw"))
        );
        for text in [
            "",
            "fuse",
            "/dev/a:/dev/b:x",
            "/dev/a:/dev/b:",
            "/dev/a:b",
            "/a:/b:r:w",
            "/dev/../x",
            "nvidia.com/gpu=all",
        ] {
            device(text).expect_err(text);
        }
    }
}
