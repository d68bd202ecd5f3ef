//! Random bytes of the kernel, and ids made of them.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::NetworkError;

/// Up to 256 random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NetworkError> {
    let mut bytes = [0; N];
    // So few bytes come whole, see getrandom(2).
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| NetworkError::Host {
        what: "get random bytes",
        source: errno.into(),
    })?;
    Ok(bytes)
}

/// 64 hexadecimal digits.
pub(crate) fn id(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
