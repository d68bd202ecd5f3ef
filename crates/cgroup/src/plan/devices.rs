//! Which devices may be used: rules, and what version 1 can express of them.
//!
//! The rules of a specification stand in order, a later one overriding those before it; what no
//! rule names is denied. Version 2 runs them as they are (a program, see `device_program`).
//! Version 1 has an [`Allowlist`]: a default and exceptions from it.

use std::collections::BTreeMap;
use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::{Error, Version};

/// `b` or `c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done: a set of read, write and mknod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Making a device node, `BPF_DEVCG_ACC_MKNOD`.
    pub const MKNOD: Access = Access(1);
    /// Reading, `BPF_DEVCG_ACC_READ`.
    pub const READ: Access = Access(2);
    /// Writing, `BPF_DEVCG_ACC_WRITE`.
    pub const WRITE: Access = Access(4);
    /// All three.
    pub const ALL: Access = Access(7);

    /// As bits of linux/bpf.h.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    fn parse(text: &str) -> Option<Access> {
        let mut bits = 0;
        for byte in text.bytes() {
            bits |= match byte {
                b'r' => Access::READ.0,
                b'w' => Access::WRITE.0,
                b'm' => Access::MKNOD.0,
                _ => return None,
            };
        }
        Some(if bits == 0 { Access::ALL } else { Access(bits) })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [
            (Access::READ, "r"),
            (Access::WRITE, "w"),
            (Access::MKNOD, "m"),
        ] {
            if self.0 & bit.0 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Allowed or denied.
    pub is_allowed: bool,
    /// `None`: both.
    pub kind: Option<Kind>,
    /// `None`: every one.
    pub major: Option<u32>,
    /// `None`: every one.
    pub minor: Option<u32>,
    /// To what it applies.
    pub access: Access,
}

impl Rule {
    const fn character(major: u32, minor: Option<u32>) -> Rule {
        Rule {
            is_allowed: true,
            kind: Some(Kind::Character),
            major: Some(major),
            minor,
            access: Access::ALL,
        }
    }

    const fn make_any(kind: Kind) -> Rule {
        Rule {
            is_allowed: true,
            kind: Some(kind),
            major: None,
            minor: None,
            access: Access::MKNOD,
        }
    }

    /// Does it decide about every device and access?
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.kind.is_none()
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_allowed { "allow " } else { "deny " })?;
        let kind = match self.kind {
            None => 'a',
            Some(kind) => kind.letter(),
        };
        write!(
            f,
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Kind::Block => 'b',
            Kind::Character => 'c',
        }
    }
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(|| "*".to_owned(), |number| number.to_string())
}

/// The devices that every container has (`/dev/null`, `zero`, `full`, `random`, `urandom`, `tty`,
/// `ptmx` and pseudo terminals), and making nodes, which alone gives no access.
///
/// See <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#default-devices>.
const DEFAULT: [Rule; 10] = [
    Rule::make_any(Kind::Character),
    Rule::make_any(Kind::Block),
    Rule::character(1, Some(3)),
    Rule::character(1, Some(5)),
    Rule::character(1, Some(7)),
    Rule::character(1, Some(8)),
    Rule::character(1, Some(9)),
    Rule::character(5, Some(0)),
    Rule::character(5, Some(2)),
    Rule::character(136, None),
];

/// Rules in order; what none names is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRules {
    rules: Vec<Rule>,
}

impl DeviceRules {
    /// The rules of a specification, and after them those for the devices that every container
    /// has.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a kind, number or access that is none.
    pub fn new(devices: &[LinuxDeviceCgroup]) -> Result<DeviceRules, Error> {
        let mut rules = Vec::with_capacity(devices.len() + DEFAULT.len());
        for device in devices {
            let rule = Rule {
                is_allowed: device.allow(),
                kind: match device.typ() {
                    None | Some(LinuxDeviceType::A) => None,
                    Some(LinuxDeviceType::B) => Some(Kind::Block),
                    Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Kind::Character),
                    Some(LinuxDeviceType::P) => {
                        return Err(Error::Invalid {
                            limit: "devices.type",
                            value: "p".to_owned(),
                            expected: "a, b, c or u: a FIFO is not a device",
                        });
                    }
                },
                major: device_number("devices.major", device.major())?,
                minor: device_number("devices.minor", device.minor())?,
                access: {
                    let access = device.access().as_deref().unwrap_or_default();
                    Access::parse(access).ok_or_else(|| Error::Invalid {
                        limit: "devices.access",
                        value: access.to_owned(),
                        expected: "letters of rwm",
                    })?
                },
            };
            if rule.is_for_all() {
                rules.clear();
            }
            rules.push(rule);
        }
        let allows_all = rules.len() == 1 && rules[0].is_for_all() && rules[0].is_allowed;
        if !allows_all {
            for default in DEFAULT {
                if !rules.contains(&default) {
                    rules.push(default);
                }
            }
        }
        Ok(DeviceRules { rules })
    }

    /// In order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// As version 1 can hold them.
    ///
    /// # Errors
    /// When a rule takes a part out of a wider one before it: version 1 has no such exception.
    pub fn allowlist(&self) -> Result<Allowlist, Error> {
        let mut list = Allowlist {
            allows_by_default: false,
            exceptions: BTreeMap::new(),
        };
        for rule in &self.rules {
            if rule.is_for_all() {
                list.allows_by_default = rule.is_allowed;
                list.exceptions.clear();
                continue;
            }
            let kinds: &[Kind] = match &rule.kind {
                None => &[Kind::Block, Kind::Character],
                Some(kind) => std::slice::from_ref(kind),
            };
            for &kind in kinds {
                list.apply(kind, rule)?;
            }
        }
        Ok(list)
    }
}

fn device_number(limit: &'static str, number: Option<i64>) -> Result<Option<u32>, Error> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| Error::Invalid {
            limit,
            value: number.to_string(),
            expected: "a device number, or -1 for every one",
        }),
    }
}

impl fmt::Display for DeviceRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            writeln!(f, "devices: {rule}")?;
        }
        Ok(())
    }
}

type Devices = (Kind, Option<u32>, Option<u32>);

/// What version 1 holds: a default, and exceptions from it.
/// `Documentation/admin-guide/cgroup-v1/devices.rst`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowlist {
    allows_by_default: bool,
    exceptions: BTreeMap<Devices, Access>,
}

impl Allowlist {
    fn apply(&mut self, kind: Kind, rule: &Rule) -> Result<(), Error> {
        let devices = (kind, rule.major, rule.minor);
        if rule.is_allowed != self.allows_by_default {
            let access = self.exceptions.entry(devices).or_insert(Access(0));
            access.0 |= rule.access.0;
            return Ok(());
        }
        // Back to the default: exceptions within the rule lose these accesses. One that is wider
        // than the rule, or crosses it, would need an exception from an exception.
        for (exception, access) in &mut self.exceptions {
            if exception.0 != kind || access.0 & rule.access.0 == 0 {
                continue;
            }
            let covers = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
            if covers(rule.major, exception.1) && covers(rule.minor, exception.2) {
                access.0 &= !rule.access.0;
            } else if covers(exception.1, rule.major) && covers(exception.2, rule.minor)
                || (covers(rule.major, exception.1) || covers(exception.1, rule.major))
                    && (covers(rule.minor, exception.2) || covers(exception.2, rule.minor))
            {
                return Err(Error::NotInVersion {
                    limit: "an exception from a wider device rule",
                    version: Version::V1,
                });
            }
        }
        self.exceptions.retain(|_, access| access.0 != 0);
        Ok(())
    }

    /// Parses `devices.list`.
    #[must_use]
    pub fn parse(list: &str) -> Allowlist {
        let mut parsed = Allowlist {
            allows_by_default: false,
            exceptions: BTreeMap::new(),
        };
        for line in list.lines() {
            let mut words = line.split(' ');
            let (Some(kind), Some(numbers), Some(access)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let kind = match kind {
                "b" => Kind::Block,
                "c" => Kind::Character,
                // The kernel shows nothing else then, not even the exceptions.
                _ => {
                    parsed.allows_by_default = true;
                    continue;
                }
            };
            if let (Some((major, minor)), Some(access)) =
                (numbers.split_once(':'), Access::parse(access))
            {
                parsed
                    .exceptions
                    .insert((kind, major.parse().ok(), minor.parse().ok()), access);
            }
        }
        parsed
    }

    /// The writes (file, value) that make a new group, which has its parent's list, hold this one.
    #[must_use]
    pub fn writes(&self) -> Vec<(&'static str, String)> {
        let mut writes = Vec::with_capacity(1 + self.exceptions.len());
        if !self.allows_by_default {
            writes.push(("devices.deny", "a".to_owned()));
        }
        let file = self.exception_file();
        writes.extend(
            self.exceptions
                .iter()
                .map(|(devices, access)| (file, line(devices, *access))),
        );
        writes
    }

    /// The writes that lead from one list to another; what both allow stays allowed all the time.
    #[must_use]
    pub fn changes(from: &Allowlist, to: &Allowlist) -> Vec<(&'static str, String)> {
        // With everything allowed the kernel does not show the exceptions: begin anew.
        if from.allows_by_default || to.allows_by_default {
            if from == to && from.exceptions.is_empty() {
                return Vec::new();
            }
            let mut writes = to.writes();
            if to.allows_by_default {
                writes.insert(0, ("devices.allow", "a".to_owned()));
            }
            return writes;
        }
        let mut writes = Vec::new();
        for (file, add, base) in [("devices.allow", to, from), ("devices.deny", from, to)] {
            for (devices, access) in &add.exceptions {
                let there = base.exceptions.get(devices).map_or(0, |access| access.0);
                let missing = access.0 & !there;
                if missing != 0 {
                    writes.push((file, line(devices, Access(missing))));
                }
            }
        }
        writes
    }

    fn exception_file(&self) -> &'static str {
        if self.allows_by_default {
            "devices.deny"
        } else {
            "devices.allow"
        }
    }
}

fn line(devices: &Devices, access: Access) -> String {
    let (kind, major, minor) = devices;
    format!(
        "{} {}:{} {access}",
        kind.letter(),
        number(*major),
        number(*minor)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> DeviceRules {
        let devices: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        DeviceRules::new(&devices).unwrap()
    }

    fn writes(writes: &[(&str, String)]) -> String {
        writes
            .iter()
            .map(|(file, value)| format!("{file}: {value}\n"))
            .collect()
    }

    #[test]
    fn a_plain_container_gets_the_default_devices() {
        let list = rules(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]"#,
        )
        .allowlist()
        .unwrap();
        assert_eq!(
            writes(&list.writes()),
            "devices.deny: a\n\
             devices.allow: b *:* m\n\
             devices.allow: c *:* m\n\
             devices.allow: c 1:3 rwm\n\
             devices.allow: c 1:5 rwm\n\
             devices.allow: c 1:7 rwm\n\
             devices.allow: c 1:8 rwm\n\
             devices.allow: c 1:9 rwm\n\
             devices.allow: c 5:0 rwm\n\
             devices.allow: c 5:2 rwm\n\
             devices.allow: c 10:229 rw\n\
             devices.allow: c 136:* rwm\n"
        );
    }

    #[test]
    fn a_privileged_container_writes_nothing() {
        let rules = rules(r#"[{"allow": true, "access": "rwm"}]"#);
        assert_eq!(rules.rules().len(), 1);
        assert_eq!(rules.allowlist().unwrap().writes(), []);
    }

    #[test]
    fn a_later_rule_overrides_what_it_covers() {
        let list = rules(
            r#"[{"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rwm"},
                {"allow": false, "type": "b", "major": 8, "access": "w"}]"#,
        )
        .allowlist()
        .unwrap();
        assert!(writes(&list.writes()).contains("devices.allow: b 8:0 rm\n"));
    }

    #[test]
    fn version_1_refuses_an_exception_from_an_exception() {
        let error = rules(
            r#"[{"allow": true, "type": "b", "major": 8, "access": "rwm"},
                {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"}]"#,
        )
        .allowlist()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "control groups version 1 cannot enforce an exception from a wider device rule"
        );
    }

    #[test]
    fn a_change_writes_only_the_difference() {
        let from = Allowlist::parse("c 1:3 rwm\nc 1:5 rwm\nb *:* m\n");
        let to = Allowlist::parse("c 1:3 rw\nb *:* m\nb 8:0 r\n");
        assert_eq!(
            writes(&Allowlist::changes(&from, &to)),
            "devices.allow: b 8:0 r\ndevices.deny: c 1:3 m\ndevices.deny: c 1:5 rwm\n"
        );
        let all = Allowlist::parse("a *:* rwm\n");
        assert_eq!(writes(&Allowlist::changes(&all, &all)), "");
        assert_eq!(writes(&Allowlist::changes(&to, &all)), "devices.allow: a\n");
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"[{"allow": true, "type": "p"}]"#,
            r#"[{"allow": true, "access": "x"}]"#,
            r#"[{"allow": true, "major": -2}]"#,
            r#"[{"allow": true, "major": 4294967296}]"#,
        ] {
            let devices: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
            assert!(
                matches!(DeviceRules::new(&devices), Err(Error::Invalid { .. })),
                "{json}"
            );
        }
    }
}
