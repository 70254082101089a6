//! The README's walk, run as it is written: every `sh` block behind a line `<!-- walk -->`, in one shell, and what
//! `# expect:` lines say must show.

use std::{fmt::Write as _, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;
use tradewind_tests::tradewind;

/// Longest that the whole walk may take.
const LIMIT: Duration = Duration::from_secs(100);
const MARK: &str = "<!-- walk -->";
const EXPECT: &str = "# expect:";

/// The marked blocks.
fn blocks(readme: &str) -> Vec<Vec<&str>> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while lines.by_ref().any(|line| line.trim() == MARK) {
        let fence = lines.find(|line| !line.trim().is_empty());
        assert_eq!(fence.map(str::trim), Some("```sh"), "behind {MARK}");
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        blocks.push(block.collect());
    }
    blocks
}

/// The blocks as one script. Each block's output goes to a file of its own, which `# expect:` lines are looked up in.
fn script(blocks: &[Vec<&str>]) -> String {
    let mut script = String::from("set -euo pipefail\n");
    script.push_str(
        "walk_expect() { for _ in $(seq \"${WALK_TRIES:-100}\"); do grep -qF -- \"$1\" \"$walk_out\" && return 0; sleep 0.1; done\n\
         echo \"line $2 of the walk expected: $1\" >\"$WALK_OUT/failed\"; exit 97; }\n",
    );
    for (n, block) in blocks.iter().enumerate() {
        let _ = writeln!(
            script,
            "walk_out=\"$WALK_OUT/{n}\"; exec >\"$walk_out\" 2>&1"
        );
        for (line, text) in block.iter().enumerate() {
            match text.trim().strip_prefix(EXPECT) {
                Some(expected) => {
                    let quoted = expected.trim().replace('\'', r"'\''");
                    let _ = writeln!(script, "walk_expect '{quoted}' {n}.{line}");
                }
                None => {
                    let _ = writeln!(script, "{text}");
                }
            }
        }
    }
    script
}

/// Ends a process group when the test ends, however it ends.
struct Group(nix::unistd::Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Fails only when all of it is gone.
        let _ = nix::sys::signal::killpg(self.0, nix::sys::signal::Signal::SIGKILL);
    }
}

#[tokio::test]
async fn the_readme_does_what_it_says() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&readme).expect("README.md");
    let blocks = blocks(&readme);
    assert!(!blocks.is_empty(), "README.md has no block behind {MARK}");

    let dir = tempfile::tempdir().unwrap();
    let (out, work) = (dir.path().join("out"), dir.path().join("work"));
    std::fs::create_dir(&out).unwrap();
    std::fs::create_dir(&work).unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binary = tradewind();
    let mut paths = vec![binary.parent().unwrap().to_owned()];
    paths.extend(std::env::split_paths(&path));
    let mut child = Command::new("bash")
        .arg("-c")
        .arg(script(&blocks))
        .current_dir(&work)
        .env("PATH", std::env::join_paths(paths).unwrap())
        .env("WALK_OUT", &out)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .expect("bash");
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let _group = Group(nix::unistd::Pid::from_raw(id.expect("a process")));
    let status = tokio::time::timeout(LIMIT, child.wait()).await;
    let mut said = std::fs::read_to_string(out.join("failed")).unwrap_or_default();
    for n in 0..blocks.len() {
        let text = std::fs::read_to_string(out.join(n.to_string())).unwrap_or_default();
        let _ = writeln!(said, "--- block {n}\n{text}");
    }
    let Ok(status) = status else {
        panic!("the walk took over {LIMIT:?}\n{said}");
    };
    let code = status.expect("an exit status").code();
    assert_eq!(code, Some(0), "the walk failed\n{said}");
}

#[test]
fn blocks_become_a_script_that_checks() {
    let readme =
        "# x\n```sh\nnot this\n```\n<!-- walk -->\n\n```sh\necho it's\n# expect: it's\n```\n";
    let found = blocks(readme);
    assert_eq!(found, [vec!["echo it's", "# expect: it's"]]);
    assert!(blocks("no marks").is_empty());
    let run = |lines: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("bash")
            .arg("-c")
            .arg(script(&[lines.to_vec()]))
            .env("WALK_OUT", dir.path())
            .env("WALK_TRIES", "1")
            .stdout(Stdio::null())
            .status();
        status.expect("bash").code()
    };
    assert_eq!(run(&["echo \"it's\"", "# expect: it's"]), Some(0));
    assert_eq!(run(&["false", "true"]), Some(1));
    assert_eq!(run(&["echo one", "# expect: two"]), Some(97));
}
