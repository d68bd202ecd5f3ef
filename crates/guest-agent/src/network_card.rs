//! The network card, which every machine has because its template has, is without a driver until the instance is told
//! of a network: one without sees only loopback.

use std::fs;
use std::io;

/// <https://docs.kernel.org/driver-api/driver-model/binding.html>
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";
const DEVICES: &str = "/sys/bus/virtio/devices";
/// Device id 1 of the virtio specification: a network card.
const NETWORK: &str = "0x0001";

/// Takes the driver from all cards, at boot.
///
/// # Errors
/// When the kernel refuses. A kernel without the driver is no error.
pub(crate) fn put_away() -> io::Result<()> {
    each_card(|card| match fs::write(format!("{DRIVER}/unbind"), card) {
        // It has none.
        Err(error) if is_no_device(&error) => Ok(()),
        result => result,
    })
}

/// Gives the cards their driver back.
///
/// # Errors
/// When the kernel refuses, or has no driver.
pub(crate) fn take_out() -> io::Result<()> {
    each_card(|card| match fs::write(format!("{DRIVER}/bind"), card) {
        // It has it already.
        Err(error) if is_no_device(&error) || error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        result => result,
    })
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn each_card(act: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(DEVICES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = fs::read_to_string(entry.path().join("device"))?;
        if kind.trim() == NETWORK && fs::exists(DRIVER)? {
            act(&entry.file_name().to_string_lossy())?;
        }
    }
    Ok(())
}
