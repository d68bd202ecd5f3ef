//! A connection to a D-Bus: what calling a few methods and waiting for one signal needs.
//!
//! See the [D-Bus specification](https://dbus.freedesktop.org/doc/dbus-specification.html), "Message Protocol" and
//! "Authentication Protocol". Values are written and read by zvariant.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zvariant::serialized::{self, Data};
use zvariant::{LE, ObjectPath, Type, Value};

/// How long anybody may take to answer. Starting a unit is a matter of milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// The specification's limit of one message is 128 MiB; answers to us are small.
const LARGEST: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// Codes of header fields.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Value<'a>)>);

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// An answer or a signal.
pub(super) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error: Option<String>,
    pub(super) member: Option<String>,
    body: Vec<u8>,
}

impl Message {
    /// The arguments.
    pub(super) fn body<T: DeserializeOwned + Type>(&self) -> anyhow::Result<T> {
        let context = serialized::Context::new_dbus(LE, 0);
        let data = Data::new(self.body.as_slice(), context);
        Ok(data.deserialize::<T>().context("cannot read an answer")?.0)
    }
}

/// The name that an error has on the bus, like `org.freedesktop.systemd1.NoSuchUnit`.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {text}")]
pub(super) struct CallError {
    pub(super) name: String,
    text: String,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    signals: VecDeque<(String, Vec<u8>)>,
}

impl Connection {
    /// Connects; `is_bus`: others are on it, too, and one has to introduce oneself.
    pub(super) fn open(socket: &Path, is_bus: bool) -> anyhow::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Connection {
            stream,
            serial: 0,
            signals: VecDeque::new(),
        };
        connection.authenticate()?;
        if is_bus {
            let bus = Method {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
            };
            connection.call(bus, &())?;
            let rule =
                "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            let add = Method {
                member: "AddMatch",
                ..bus
            };
            connection.call(add, &(rule,))?;
        }
        Ok(connection)
    }

    /// Who we are is what the kernel says of the other end of the socket: no name is given, since in a user namespace
    /// our own idea of it is another.
    fn authenticate(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\n")?;
        self.expect("DATA")?;
        self.stream.write_all(b"DATA\r\n")?;
        self.expect("OK")?;
        self.stream.write_all(b"BEGIN\r\n")?;
        Ok(())
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.extend(byte);
            if line.len() > 4096 {
                bail!("it does not speak D-Bus");
            }
        }
        let line = String::from_utf8_lossy(&line);
        if line.split_whitespace().next() != Some(word) {
            bail!("it refuses us: {}", line.trim_end());
        }
        Ok(())
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call<T: Serialize + Type>(
        &mut self,
        method: Method<'_>,
        arguments: &T,
    ) -> anyhow::Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        let message = message(method, serial, arguments)
            .with_context(|| format!("cannot write the call of {}", method.member))?;
        self.stream.write_all(&message)?;
        loop {
            let answer = self.read()?;
            if answer.reply_to != Some(serial) {
                self.keep(answer);
                continue;
            }
            if answer.kind == ERROR {
                let text = answer
                    .body::<(String,)>()
                    .map(|(text,)| text)
                    .unwrap_or_default();
                let name = answer.error.unwrap_or_default();
                return Err(CallError { name, text }.into());
            }
            return Ok(answer);
        }
    }

    /// Waits for a signal of which `is_it` is true.
    pub(super) fn wait_for(
        &mut self,
        member: &str,
        mut is_it: impl FnMut(&Message) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let message = match self.signals.pop_front() {
                Some((member, body)) => Message {
                    kind: SIGNAL,
                    reply_to: None,
                    error: None,
                    member: Some(member),
                    body,
                },
                None => self.read()?,
            };
            if message.kind == SIGNAL
                && message.member.as_deref() == Some(member)
                && is_it(&message)?
            {
                return Ok(());
            }
        }
    }

    fn keep(&mut self, message: Message) {
        if let (SIGNAL, Some(member)) = (message.kind, message.member) {
            self.signals.push_back((member, message.body));
        }
    }

    fn read(&mut self) -> anyhow::Result<Message> {
        let mut start = [0; 16];
        self.stream.read_exact(&mut start)?;
        let number = |at: usize| -> usize {
            let bytes = [start[at], start[at + 1], start[at + 2], start[at + 3]];
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        if start[0] != b'l' {
            bail!("it answers in the byte order of another machine");
        }
        let (body, fields) = (number(4), number(12));
        if body > LARGEST || fields > LARGEST {
            bail!("its answer is too long");
        }
        let mut header = start.to_vec();
        header.resize(16 + fields.next_multiple_of(8), 0);
        self.stream.read_exact(&mut header[16..])?;
        let mut content = vec![0; body];
        self.stream.read_exact(&mut content)?;
        let data = Data::new(header.as_slice(), serialized::Context::new_dbus(LE, 0));
        let (parsed, _): (Header<'_>, usize) = data
            .deserialize()
            .context("cannot read the head of an answer")?;
        let mut message = Message {
            kind: parsed.1,
            reply_to: None,
            error: None,
            member: None,
            body: content,
        };
        for (code, value) in parsed.6 {
            match (code, value) {
                (field::REPLY_SERIAL, Value::U32(serial)) => message.reply_to = Some(serial),
                (field::ERROR_NAME, Value::Str(name)) => message.error = Some(name.to_string()),
                (field::MEMBER, Value::Str(name)) => message.member = Some(name.to_string()),
                _ => {}
            }
        }
        Ok(message)
    }
}

/// A method call as bytes.
fn message<T: Serialize + Type>(
    method: Method<'_>,
    serial: u32,
    arguments: &T,
) -> anyhow::Result<Vec<u8>> {
    let context = serialized::Context::new_dbus(LE, 0);
    let body = zvariant::to_bytes(context, arguments)?;
    let fields = vec![
        (field::PATH, Value::from(ObjectPath::try_from(method.path)?)),
        (field::DESTINATION, Value::from(method.destination)),
        (field::INTERFACE, Value::from(method.interface)),
        (field::MEMBER, Value::from(method.member)),
    ];
    let length = u32::try_from(body.len())?;
    let header: Header<'_> = (b'l', METHOD_CALL, 0, 1, length, serial, fields);
    let mut bytes = zvariant::to_bytes(context, &header)?.to_vec();
    let signature = T::SIGNATURE.to_string_no_parens();
    if !signature.is_empty() {
        // The one field that zvariant cannot write: several arguments are no structure, but would become one as a
        // value. A field, aligned to 8: its code, the type of the value, the value.
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend([field::SIGNATURE, 1, b'g', 0, u8::try_from(signature.len())?]);
        bytes.extend(signature.as_bytes());
        bytes.push(0);
        let all = u32::try_from(bytes.len() - 16)?;
        bytes[12..16].copy_from_slice(&all.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_as_the_specification_has_it() {
        let method = Method {
            destination: "d.e",
            path: "/a",
            interface: "i.f",
            member: "M",
        };
        let bytes = message(method, 7, &("x", 1_u8)).unwrap();
        // little endian, method call, no flags, version 1; body of 7 bytes; serial 7
        assert_eq!(bytes[..12], [b'l', 1, 0, 1, 7, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[bytes.len() - 7..], [1, 0, 0, 0, b'x', 0, 1]);
        assert_eq!((bytes.len() - 7) % 8, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("\u{1}g\0\u{2}sy\0"), "{bytes:?}");
    }
}
