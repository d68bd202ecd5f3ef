//! Limits: `-m`, `--cpus` and the rest, which `run`, `create` and `update` share.

use clap::Args;
use isle_engine::config::Resources;
use isle_types::ByteSize;

use super::FlagError;
use super::block_io::BlockIoFlags;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct ResourceFlags {
    /// Limit of memory, like 512m or 2g
    #[arg(short, long, value_name = "BYTES", value_parser = memory, help_heading = "Limits")]
    memory: Option<ByteSize>,
    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", value_parser = memory_swap, allow_hyphen_values = true, help_heading = "Limits")]
    memory_swap: Option<i64>,
    /// What the kernel tries to leave it when memory is short
    #[arg(long, value_name = "BYTES", value_parser = memory, help_heading = "Limits")]
    memory_reservation: Option<ByteSize>,
    /// Number of CPUs, like 1.5
    #[arg(long, value_name = "NUMBER", value_parser = cpus, help_heading = "Limits")]
    cpus: Option<u64>,
    /// Weight against others when CPUs are short, 2 to 262144 (default 1024)
    #[arg(short, long, value_name = "WEIGHT", value_parser = cpu_shares, help_heading = "Limits")]
    cpu_shares: Option<u64>,
    /// CPUs it may run on, like 0-2,4
    #[arg(long, value_name = "LIST", value_parser = cpu_set, help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use, like 0,1
    #[arg(long, value_name = "LIST", value_parser = cpu_set, help_heading = "Limits")]
    cpuset_mems: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = pids_limit, allow_hyphen_values = true, help_heading = "Limits")]
    pids_limit: Option<i64>,
    #[command(flatten)]
    block_io: BlockIoFlags,
}

impl ResourceFlags {
    /// As the engine takes them.
    pub fn resources(&self) -> Result<Resources, FlagError> {
        if let (Some(memory), Some(swap)) = (self.memory, self.memory_swap)
            && swap >= 0
            && (swap as u64) < memory.bytes()
        {
            return Err(FlagError::new(
                "--memory-swap is less than --memory",
                "it is the limit of memory and swap together: give at least as much",
            ));
        }
        if let (Some(memory), Some(reservation)) = (self.memory, self.memory_reservation)
            && reservation > memory
        {
            return Err(FlagError::new(
                "--memory-reservation is more than --memory",
                "give less, or raise --memory",
            ));
        }
        Ok(Resources {
            memory: self.memory,
            memory_swap: self.memory_swap,
            memory_reservation: self.memory_reservation,
            nano_cpus: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            pids_limit: self.pids_limit,
            ..self.block_io.resources()
        })
    }
}

/// Docker's least, without which nothing starts.
const LEAST_MEMORY: u64 = 6 << 20;

pub fn memory(text: &str) -> Result<ByteSize, FlagError> {
    let size: ByteSize = size(text)?;
    match size.bytes() {
        0 => Err(FlagError::new(
            "a limit of 0 bytes",
            "leave the flag out for no limit",
        )),
        1..LEAST_MEMORY => Err(FlagError::new(
            format!("{text:?} is less than the least that a process can start in, 6m"),
            "give at least 6m",
        )),
        _ => Ok(size),
    }
}

fn size(text: &str) -> Result<ByteSize, FlagError> {
    text.parse().map_err(|_| {
        FlagError::new(
            format!("{text:?} is not a size"),
            "write a number with a unit b, k, m or g, like 512m",
        )
    })
}

fn memory_swap(text: &str) -> Result<i64, FlagError> {
    match text {
        "-1" => Ok(-1),
        _ => i64::try_from(size(text)?.bytes())
            .map_err(|_| FlagError::new(format!("{text:?} is too large"), "use -1 for no limit")),
    }
}

/// In billionths.
pub fn cpus(text: &str) -> Result<u64, FlagError> {
    let fail = || {
        FlagError::new(
            format!("{text:?} is not a number of CPUs"),
            "write for example 1.5; the least is 0.01",
        )
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || fraction.len() > 9 || text == "." {
        return Err(fail());
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| fail())?,
    };
    let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| fail())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|nanos| nanos.checked_add(fraction))
        .filter(|nanos| *nanos >= 10_000_000 && *nanos <= 1_000_000_000_000_000)
        .ok_or_else(fail)
}

fn cpu_shares(text: &str) -> Result<u64, FlagError> {
    match text.parse() {
        Ok(shares @ 2..=262_144) => Ok(shares),
        _ => Err(FlagError::new(
            format!("{text:?} is not a weight"),
            "give a number from 2 to 262144",
        )),
    }
}

fn cpu_set(text: &str) -> Result<String, FlagError> {
    let is_part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => first <= last,
            _ => false,
        }
    };
    match text.split(',').all(is_part) {
        true => Ok(text.to_owned()),
        false => Err(FlagError::new(
            format!("{text:?} is not a list of numbers"),
            "write for example 0-2,4",
        )),
    }
}

fn pids_limit(text: &str) -> Result<i64, FlagError> {
    match text.parse() {
        // Docker: 0 is unlimited as well.
        Ok(-1 | 0) => Ok(-1),
        Ok(limit @ 1..) => Ok(limit),
        _ => Err(FlagError::new(
            format!("{text:?} is not a number of processes"),
            "give a number from 1, or -1 for no limit",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_exact_to_the_billionth() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus(".5"), Ok(500_000_000));
        assert_eq!(cpus("0.29"), Ok(290_000_000));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        for text in [
            "",
            "0",
            "-1",
            "x",
            "1.2.3",
            "1e3",
            ".",
            "0.001",
            "99999999999999999999",
        ] {
            cpus(text).expect_err(text);
        }
    }

    #[test]
    fn limits_out_of_range_are_refused() {
        assert_eq!(memory("512m"), Ok(ByteSize(512 << 20)));
        assert_eq!(memory_swap("-1"), Ok(-1));
        assert_eq!(pids_limit("0"), Ok(-1));
        assert_eq!(cpu_set("0-2,4"), Ok("0-2,4".into()));
        memory("1k").unwrap_err();
        memory("0").unwrap_err();
        memory("lots").unwrap_err();
        memory_swap("-2").unwrap_err();
        cpu_shares("1").unwrap_err();
        cpu_set("3-1").unwrap_err();
        cpu_set("a").unwrap_err();
        cpu_set("").unwrap_err();
        pids_limit("-5").unwrap_err();
        let flags = ResourceFlags {
            memory: Some(ByteSize(1 << 30)),
            memory_swap: Some(1 << 20),
            ..ResourceFlags::default()
        };
        flags.resources().unwrap_err();
    }
}
