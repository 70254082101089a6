//! What a process used, as the kernel counts it: processor time, peak memory, bytes to the disk; and what the loopback
//! device carried. Reads `/proc` only.

use std::{fs, path::Path};

use nix::unistd::{SysconfVar, sysconf};

/// One process, so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Seconds of processor time.
    pub(crate) cpu_s: f64,
    /// The largest resident size it had, bytes.
    pub(crate) peak_rss: u64,
    /// Bytes it caused to be sent to the disk.
    pub(crate) disk_written: u64,
}

impl Usage {
    /// Of the process `pid`.
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let status = read(&format!("/proc/{pid}/status"))?;
        let io = read(&format!("/proc/{pid}/io"))?;
        // The name in the second field may hold spaces; what follows its bracket does not.
        let fields = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest)
            .unwrap_or_default();
        let fields: Vec<u64> = fields
            .split_whitespace()
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        let ticks = fields.iter().skip(11).take(2).sum::<u64>();
        let kib = field(&status, "VmHWM:")?;
        Ok(Self {
            cpu_s: ticks as f64 / ticks_per_second()?,
            peak_rss: kib * 1024,
            disk_written: field(&io, "write_bytes:")?,
        })
    }
}

/// What this process holds in memory now, bytes.
pub(crate) fn resident() -> Result<u64, String> {
    rss(std::process::id())
}

/// What the process `pid` holds in memory now, bytes.
pub(crate) fn rss(pid: u32) -> Result<u64, String> {
    Ok(field(&read(&format!("/proc/{pid}/status"))?, "VmRSS:")? * 1024)
}

/// Lets the peak of the process `pid` begin anew with what it holds now.
pub(crate) fn forget_peak(pid: u32) -> Result<(), String> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").map_err(|e| format!("{path}: {e}"))
}

/// Seconds of processor time of the threads that the process `pid` has now. Finer than the ticks of [`Usage`].
pub(crate) fn cpu_s(pid: u32) -> Result<f64, String> {
    let dir = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&dir).map_err(|e| format!("{dir}: {e}"))?;
    let mut ns = 0;
    for thread in threads.flatten() {
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else {
            // Ended in the meantime.
            continue;
        };
        let on_cpu = text.split_whitespace().next().and_then(|n| n.parse().ok());
        ns += on_cpu.unwrap_or(0_u64);
    }
    Ok(ns as f64 / 1e9)
}

fn ticks_per_second() -> Result<f64, String> {
    let ticks = sysconf(SysconfVar::CLK_TCK).map_err(|e| e.to_string())?;
    Ok(ticks.unwrap_or(100) as f64)
}

/// Bytes sent over loopback since the machine started, headers included.
pub(crate) fn loopback_bytes() -> Result<u64, String> {
    let devices = read("/proc/net/dev")?;
    let line = devices
        .lines()
        .find_map(|l| l.trim_start().strip_prefix("lo:"));
    let received = line.and_then(|l| l.split_whitespace().next());
    received
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| "/proc/net/dev lists no loopback device".to_owned())
}

/// Bytes that the files below `dir` take on the disk.
pub(crate) fn disk_use(dir: &Path) -> Result<u64, String> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
    let mut total = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(meta) = entry.metadata() else {
            // Removed in the meantime.
            continue;
        };
        total += if meta.is_dir() {
            disk_use(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(total)
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

fn field(text: &str, name: &str) -> Result<u64, String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("the kernel tells no {name}"))
}
