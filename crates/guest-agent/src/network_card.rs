//! The network cards, which every machine has because its template has, are without a driver until the instance is told
//! of a network for them: one without sees only loopback.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

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
    cards()?.iter().try_for_each(|card| unbind(card))
}

/// Gives a card its driver; the name that its interface has for now.
///
/// # Errors
/// When there is no such card, or the kernel refuses, or has no driver.
pub(crate) fn take_out(number: u8) -> io::Result<String> {
    let card = card(number)?;
    match fs::write(format!("{DRIVER}/bind"), &card) {
        // It has it already.
        Err(error) if is(&error, Errno::NODEV) || is(&error, Errno::BUSY) => {}
        result => result?,
    }
    let interface = fs::read_dir(Path::new(DEVICES).join(card).join("net"))?.next();
    let interface = interface.ok_or(io::ErrorKind::NotFound)??;
    Ok(interface.file_name().to_string_lossy().into_owned())
}

/// Takes the driver from a card: its interface goes.
///
/// # Errors
/// When there is no such card, or the kernel refuses.
pub(crate) fn put_back(number: u8) -> io::Result<()> {
    unbind(&card(number)?)
}

fn unbind(card: &str) -> io::Result<()> {
    match fs::write(format!("{DRIVER}/unbind"), card) {
        // It has none.
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        result => result,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn card(number: u8) -> io::Result<String> {
    let found = cards()?.into_iter().nth(number.into());
    found.ok_or_else(|| io::Error::other("the machine has no such network card"))
}

/// Their names, like `virtio5`, in the order of the machine's cards.
fn cards() -> io::Result<Vec<String>> {
    let mut cards = Vec::new();
    if !fs::exists(DRIVER)? {
        return Ok(cards);
    }
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let kind = fs::read_to_string(entry.path().join("device"))?;
        if kind.trim() == NETWORK {
            cards.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    // As numbers: their texts have no more digits than these.
    cards.sort_by_key(|card| (card.len(), card.clone()));
    Ok(cards)
}
