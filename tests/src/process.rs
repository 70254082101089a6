//! Processes of the binary under test. Each is ended by its id when its handle is dropped; its log stays until then and
//! its tail is shown when a test fails.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

/// Longest a one-shot command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a log that a failing test shows.
const TAIL_LINES: usize = 25;

/// The binary: `TRADEWIND_BIN`, else what is beside this program, else what cargo built beside this test.
pub fn tradewind() -> PathBuf {
    if let Some(path) = std::env::var_os("TRADEWIND_BIN") {
        let path = PathBuf::from(path);
        assert!(
            path.is_file(),
            "TRADEWIND_BIN names {}, which is no file",
            path.display()
        );
        return path;
    }
    let exe = std::env::current_exe().expect("this test's own path");
    let beside = exe.with_file_name("tradewind");
    if beside.is_file() {
        return beside;
    }
    let target = exe.ancestors().find(|p| p.join("CACHEDIR.TAG").is_file());
    let target = target.unwrap_or_else(|| panic!("no target directory above {}", exe.display()));
    let found = ["release", "debug"].map(|p| target.join(p).join("tradewind"));
    let newest = found
        .iter()
        .filter_map(|p| Some((p.metadata().ok()?.modified().ok()?, p)))
        .max();
    match newest {
        Some((_, path)) => path.clone(),
        None => panic!(
            "there is no tradewind binary in {}: run `cargo build` first",
            target.display()
        ),
    }
}

/// A shell's usual limit of open files, for this process and what it starts from now on.
pub fn usual_files() {
    limit_files(|hard| hard.min(1024));
}

/// As many open files as the system allows, for this process and what it starts from now on.
pub fn many_files() {
    limit_files(|hard| hard);
}

/// At least so many open files, if whoever runs this may raise the limit, for this process and what it starts from now on;
/// says how many there may be.
pub fn raise_files(wanted: u64) -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return wanted;
    }
    many_files();
    hard
}

fn limit_files(soft: impl FnOnce(u64) -> u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, soft(hard), hard).expect("a soft limit up to the hard one");
}

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
}

impl Output {
    /// Panics unless it succeeded.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: stdout {}\nstderr: {}", self.stdout, self.stderr))
    }

    /// Panics unless it failed with `code`, with exactly one error that holds every one of `words`, a hint, and no trace of
    /// a panic.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        let said = &self.stderr;
        assert_eq!(self.code, code, "stderr: {said}\nstdout: {}", self.stdout);
        let errors = said.lines().filter(|l| l.starts_with("error: ")).count();
        assert_eq!(errors, 1, "exactly one error: {said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing: {said}");
        }
        assert!(said.contains("hint: "), "a hint is missing: {said}");
        for bad in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
            assert!(!said.contains(bad), "{bad:?} shows: {said}");
        }
    }
}

/// Runs a command to its end.
pub async fn run(args: &[&str]) -> Output {
    let mut command = Command::new(tradewind());
    command.args(args);
    finish(command).await
}

/// Runs any command to its end.
pub async fn finish(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_LIMIT, command.output());
    let output = output
        .await
        .unwrap_or_else(|_| panic!("{command:?} took over {COMMAND_LIMIT:?}"));
    let output = output.expect("the command runs");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that runs until it is told otherwise.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    told: bool,
}

impl Process {
    /// Starts the binary with `args`; its log goes to `<dir>/<name>.log`, after what an earlier one of the name wrote.
    pub fn start(name: &str, dir: &Path, args: &[&str]) -> Self {
        Self::start_with(name, dir, args, &[])
    }

    /// The same with environment variables.
    pub fn start_with(name: &str, dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_behind(name, dir, Command::new(tradewind()), args, env)
    }

    /// The same through `command`, which becomes the binary, such as `nsenter`.
    pub fn start_behind(
        name: &str,
        dir: &Path,
        mut command: Command,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let child = command
            .args(args)
            .env("TRADEWIND_PARENT_PID", std::process::id().to_string())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self {
            name: name.to_owned(),
            child,
            log,
            told: false,
        }
    }

    /// SIGKILL, and wait until it is gone.
    pub async fn kill(&mut self) {
        // Fails only when it is gone already.
        drop(self.child.kill().await);
    }

    /// SIGSTOP or SIGCONT.
    pub fn pause(&self, pause: bool) {
        use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
        let id = self.child.id().expect("a process that was not reaped");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(id).expect("a pid"));
        let signal = if pause { SIGSTOP } else { SIGCONT };
        nix::sys::signal::kill(pid, signal).expect("our own child");
    }

    /// SIGTERM, unless it was told already.
    pub fn terminate(&mut self) {
        if !self.told
            && let Some(id) = self.child.id()
        {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(id).expect("a pid"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("our own child");
            self.told = true;
        }
    }

    /// SIGTERM, then its exit code.
    pub async fn stop(&mut self, limit: Duration) -> i32 {
        self.terminate();
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| {
            panic!(
                "{} still runs {limit:?} after SIGTERM\n{}",
                self.name,
                self.tail()
            )
        });
        status.expect("an exit status").code().unwrap_or(-1)
    }

    /// Its exit code, if it ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .ok()
            .flatten()
            .map(|s| s.code().unwrap_or(-1))
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How many descriptors it has open now.
    pub fn files(&self) -> usize {
        let id = self.child.id().expect("a process that was not reaped");
        std::fs::read_dir(format!("/proc/{id}/fd"))
            .expect("its descriptors")
            .count()
    }

    /// Lets it have no more than so many descriptors from now on.
    pub async fn limit_files_to(&self, most: usize) {
        let id = self.child.id().expect("a process that was not reaped");
        let mut prlimit = Command::new("prlimit");
        prlimit
            .arg(format!("--pid={id}"))
            .arg(format!("--nofile={most}"));
        finish(prlimit).await.good();
    }

    /// The memory that it has in use now, bytes.
    pub fn memory(&self) -> u64 {
        let id = self.child.id().expect("a process that was not reaped");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("a number") * 1024
    }

    /// All it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of what it logged.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {} ({})\n{}",
                self.name,
                self.log.display(),
                self.tail()
            );
        }
        // A runtime that is going down no longer reaps: end it here, by its own id.
        if let Some(id) = self.child.id()
            && let Ok(id) = i32::try_from(id)
        {
            let gone = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(id),
                nix::sys::signal::Signal::SIGKILL,
            );
            // It may have gone by itself meanwhile.
            let _: Result<(), _> = gone;
        }
    }
}
