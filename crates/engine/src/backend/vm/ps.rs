//! Processes of a guest in the words of ps(1): its columns, from what the agent tells of each process. Pure.
//!
//! The host's own ps cannot see them. Which processes are listed is not for the options to say: all of the instance.

use isle_guest::Process;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::ProcessTable;

/// What a table is made with.
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
    /// All memory of the guest, in bytes.
    pub(super) memory_bytes: u64,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    field: Field,
    title: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    User,
    Pid,
    Parent,
    /// Percent of a processor over the whole life, without a fraction.
    Use,
    Cpu,
    Memory,
    Virtual,
    Resident,
    Terminal,
    State,
    Nice,
    Threads,
    Start,
    /// `hh:mm:ss`
    Time,
    /// `m:ss`
    ShortTime,
    Elapsed,
    ElapsedSeconds,
    Name,
    Command,
}

/// Names of columns, as `-o` takes them, and their titles.
const FIELDS: [(&str, Field, &str); 38] = [
    ("user", Field::User, "USER"),
    ("uid", Field::User, "UID"),
    ("euid", Field::User, "EUID"),
    ("euser", Field::User, "EUSER"),
    ("uname", Field::User, "USER"),
    ("pid", Field::Pid, "PID"),
    ("tgid", Field::Pid, "TGID"),
    ("ppid", Field::Parent, "PPID"),
    ("c", Field::Use, "C"),
    ("%cpu", Field::Cpu, "%CPU"),
    ("pcpu", Field::Cpu, "%CPU"),
    ("%mem", Field::Memory, "%MEM"),
    ("pmem", Field::Memory, "%MEM"),
    ("vsz", Field::Virtual, "VSZ"),
    ("vsize", Field::Virtual, "VSZ"),
    ("rss", Field::Resident, "RSS"),
    ("rssize", Field::Resident, "RSS"),
    ("rsz", Field::Resident, "RSZ"),
    ("tty", Field::Terminal, "TT"),
    ("tt", Field::Terminal, "TT"),
    ("tname", Field::Terminal, "TTY"),
    ("s", Field::State, "S"),
    ("state", Field::State, "S"),
    ("stat", Field::State, "STAT"),
    ("ni", Field::Nice, "NI"),
    ("nice", Field::Nice, "NI"),
    ("nlwp", Field::Threads, "NLWP"),
    ("thcount", Field::Threads, "THCNT"),
    ("stime", Field::Start, "STIME"),
    ("start_time", Field::Start, "START"),
    ("time", Field::Time, "TIME"),
    ("cputime", Field::Time, "TIME"),
    ("etime", Field::Elapsed, "ELAPSED"),
    ("etimes", Field::ElapsedSeconds, "ELAPSED"),
    ("comm", Field::Name, "COMMAND"),
    ("args", Field::Command, "COMMAND"),
    ("cmd", Field::Command, "CMD"),
    ("command", Field::Command, "COMMAND"),
];

/// The table that options of ps(1) ask for.
///
/// # Errors
/// When they ask for something that is not known of processes in a guest.
pub(super) fn table(
    processes: &[Process],
    options: &[String],
    moment: &Moment,
) -> Result<ProcessTable, String> {
    let columns = columns(options)?;
    // As of the host's, whose list could not be told from others else.
    if !columns.iter().any(|column| column.field == Field::Pid) {
        return Err("ps shows no PID column with these options".to_owned());
    }
    let row = |process: &Process| -> Vec<String> {
        let cells = columns
            .iter()
            .map(|column| cell(column.field, process, moment));
        cells.collect()
    };
    Ok(ProcessTable {
        rows: processes.iter().map(row).collect(),
        titles: columns.into_iter().map(|column| column.title).collect(),
    })
}

fn preset(names: &[(&str, &str)]) -> Vec<Column> {
    let column = |(name, title): &(&str, &str)| {
        let mut column = named(name).expect("presets name what there is");
        (*title).clone_into(&mut column.title);
        column
    };
    names.iter().map(column).collect()
}

/// `-f`
fn full() -> Vec<Column> {
    preset(&[
        ("uid", "UID"),
        ("pid", "PID"),
        ("ppid", "PPID"),
        ("c", "C"),
        ("stime", "STIME"),
        ("tname", "TTY"),
        ("time", "TIME"),
        ("cmd", "CMD"),
    ])
}

/// `u`
fn by_user() -> Vec<Column> {
    let mut columns = preset(&[
        ("user", "USER"),
        ("pid", "PID"),
        ("%cpu", "%CPU"),
        ("%mem", "%MEM"),
        ("vsz", "VSZ"),
        ("rss", "RSS"),
        ("tname", "TTY"),
        ("stat", "STAT"),
        ("start_time", "START"),
        ("time", "TIME"),
        ("command", "COMMAND"),
    ]);
    columns[9].field = Field::ShortTime;
    columns
}

/// Nothing.
fn plain() -> Vec<Column> {
    preset(&[
        ("pid", "PID"),
        ("tname", "TTY"),
        ("time", "TIME"),
        ("comm", "CMD"),
    ])
}

fn named(name: &str) -> Option<Column> {
    let (_, field, title) = FIELDS.iter().find(|(known, _, _)| *known == name)?;
    Some(Column {
        field: *field,
        title: (*title).to_owned(),
    })
}

/// Options as ps(1) reads them: letters with and without `-`, of which `o` takes the rest of its word or the next one.
fn columns(options: &[String]) -> Result<Vec<Column>, String> {
    let refused = |option: &str| {
        Err(format!(
            "ps option {option:?} is not known for processes of a virtual machine; -e, -f, aux and -o COLUMN,… are \
             (or run the image's own: `isle exec NAME ps`)"
        ))
    };
    if options.is_empty() {
        return Ok(full());
    }
    let mut asked: Vec<Column> = Vec::new();
    let mut of_form = plain();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let has_dash = word.starts_with('-');
        if let Some(list) = word.strip_prefix("--format=") {
            asked.extend(listed(list)?);
            continue;
        }
        let letters = word.strip_prefix('-').unwrap_or(word);
        if letters.is_empty() || letters.starts_with('-') {
            return refused(word);
        }
        for (at, letter) in letters.char_indices() {
            match (letter, has_dash) {
                // Which processes, and how wide: all, and all of it.
                ('e' | 'A' | 'w', true) | ('a' | 'x' | 'w', _) => {}
                ('f', true) => of_form = full(),
                ('u', false) => of_form = by_user(),
                ('o', _) => {
                    let list = &letters[at + 1..];
                    let list = match (list.is_empty(), words.as_slice()) {
                        (false, _) => list,
                        (true, _) => match words.next() {
                            Some(next) => next,
                            None => {
                                return Err("ps option -o needs the names of columns".to_owned());
                            }
                        },
                    };
                    asked.extend(listed(list)?);
                    break;
                }
                _ => return refused(word),
            }
        }
    }
    Ok(if asked.is_empty() { of_form } else { asked })
}

/// `pid,comm`, `pid comm`, `pid=ID`: a title is the rest, whatever is in it.
fn listed(list: &str) -> Result<Vec<Column>, String> {
    let (names, title) = match list.split_once('=') {
        Some((names, title)) => (names, Some(title)),
        None => (list, None),
    };
    let mut columns = Vec::new();
    for name in names.split([',', ' ']).filter(|name| !name.is_empty()) {
        columns.push(named(name).ok_or_else(|| {
            format!("ps column {name:?} is not known for processes of a virtual machine")
        })?);
    }
    match (columns.last_mut(), title) {
        (None, _) => return Err("ps option -o needs the names of columns".to_owned()),
        (Some(last), Some(title)) => title.clone_into(&mut last.title),
        (Some(_), None) => {}
    }
    Ok(columns)
}

fn cell(field: Field, process: &Process, moment: &Moment) -> String {
    let now = u64::try_from(moment.now.as_second()).unwrap_or(0);
    let age = now.saturating_sub(process.started);
    let cpu = process.cpu_ms / 1000;
    let of_processor = match age {
        0 => 0.0,
        age => process.cpu_ms as f64 / 10.0 / age as f64,
    };
    match field {
        Field::User => process.uid.to_string(),
        Field::Pid => process.pid.to_string(),
        Field::Parent => process.parent.to_string(),
        Field::Use => format!("{:.0}", of_processor.min(99.0)),
        Field::Cpu => format!("{of_processor:.1}"),
        Field::Memory => match moment.memory_bytes {
            0 => "0.0".to_owned(),
            all => format!("{:.1}", process.resident_bytes as f64 / all as f64 * 100.0),
        },
        Field::Virtual => (process.virtual_bytes / 1024).to_string(),
        Field::Resident => (process.resident_bytes / 1024).to_string(),
        Field::Terminal => terminal(process.terminal),
        Field::State => process.state.to_string(),
        Field::Nice => process.nice.to_string(),
        Field::Threads => process.threads.to_string(),
        Field::Start => started(process.started, moment),
        Field::Time => format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60),
        Field::ShortTime => format!("{}:{:02}", cpu / 60, cpu % 60),
        Field::Elapsed => elapsed(age),
        Field::ElapsedSeconds => age.to_string(),
        Field::Name => text(&process.name),
        Field::Command => match process.command.is_empty() {
            true => format!("[{}]", text(&process.name)),
            false => text(&process.command),
        },
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `[[days-]hours:]minutes:seconds`
fn elapsed(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => rest,
        (0, hours) => format!("{hours:02}:{rest}"),
        (days, hours) => format!("{days}-{hours:02}:{rest}"),
    }
}

/// The time of day, or the day when it was another one.
fn started(seconds: u64, moment: &Moment) -> String {
    let at = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    let Some(at) = at else {
        return "?".to_owned();
    };
    let at = at.to_zoned(moment.zone.clone());
    let now = moment.now.to_zoned(moment.zone.clone());
    match at.date() == now.date() {
        true => at.strftime("%H:%M").to_string(),
        false => at.strftime("%b%d").to_string(),
    }
}

/// The name of a terminal by its number, see proc_pid_stat(5).
fn terminal(number: u64) -> String {
    // Unix98 terminals have the major numbers 136 to 143.
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<(String, Vec<Vec<String>>), String> {
        let moment = Moment {
            now: "2026-11-21T12:00:00Z".parse().unwrap(),
            zone: TimeZone::UTC,
            memory_bytes: 100 << 20,
        };
        let process = Process {
            pid: 7,
            parent: 1,
            uid: 33,
            state: 'S',
            cpu_ms: 65_000,
            started: moment.now.as_second() as u64 - 3700,
            threads: 2,
            virtual_bytes: 8 << 20,
            resident_bytes: 1 << 20,
            name: b"nginx".to_vec().into(),
            command: b"nginx: worker process".to_vec().into(),
            ..Process::default()
        };
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        let table = table(&[process], &options, &moment)?;
        Ok((table.titles.join(" "), table.rows))
    }

    #[test]
    fn the_usual_options_give_the_usual_tables() {
        let full = "UID PID PPID C STIME TTY TIME CMD";
        let (titles, rows) = read(&[]).unwrap();
        assert_eq!(titles, full);
        let row = ["33", "7", "1", "2", "10:58", "?", "00:01:05"];
        assert_eq!(rows[0][..7], row);
        assert_eq!(rows[0][7], "nginx: worker process");
        for options in [&["-ef"][..], &["-e", "-f"], &["-fA"]] {
            assert_eq!(read(options).unwrap().0, full, "{options:?}");
        }
        assert_eq!(read(&["-e"]).unwrap().0, "PID TTY TIME CMD");
        let by_user = "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND";
        let (titles, rows) = read(&["aux"]).unwrap();
        assert_eq!(titles, by_user);
        let row = [
            "33", "7", "1.8", "1.0", "8192", "1024", "?", "S", "10:58", "1:05",
        ];
        assert_eq!(rows[0][..10], row);
    }

    #[test]
    fn columns_are_chosen_and_named() {
        let (titles, rows) = read(&["-eo", "pid,comm,etime"]).unwrap();
        assert_eq!(titles, "PID COMMAND ELAPSED");
        assert_eq!(rows, [["7", "nginx", "01:01:40"]]);
        assert_eq!(read(&["-opid=Number"]).unwrap().0, "Number");
        assert_eq!(read(&["o", "pid", "-o", "nlwp"]).unwrap().0, "PID NLWP");
        assert_eq!(read(&["--format=pid rss"]).unwrap().0, "PID RSS");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert!(
            read(&["-o", "pid,wchan"])
                .unwrap_err()
                .contains("\"wchan\"")
        );
        assert!(read(&["-eZ"]).unwrap_err().contains("isle exec"));
        assert!(read(&["--forest"]).unwrap_err().contains("\"--forest\""));
        assert!(read(&["-eo"]).unwrap_err().contains("needs"));
        assert!(read(&["-eo", "comm"]).unwrap_err().contains("PID"));
    }

    #[test]
    fn terminals_have_their_names() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(136 << 8), "pts/0");
        assert_eq!(terminal((136 << 8) | 3), "pts/3");
    }
}
