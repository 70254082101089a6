//! Bad input of every kind: one clear error that names the thing, with a hint and the documented exit code; nothing is
//! changed, nothing lost, nobody panics.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "a test's helpers fail by panicking, and a table is read in one piece"
)]

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tradewind_tests::{
    Federation, Output,
    federation::{ADMIN, CONTROLLER, GATEWAY, ONE, host},
    process::run,
    wait::{USUAL, until},
};

const WEST: usize = 0;

/// Exit codes, as docs/exit-codes.md has them.
mod code {
    pub(crate) const PROBLEMS: i32 = 1;
    pub(crate) const USAGE: i32 = 2;
    pub(crate) const UNREACHABLE: i32 = 3;
    pub(crate) const REFUSED: i32 = 5;
}

/// Every file below a directory with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).expect("a readable directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if path.is_file() {
                files.insert(path.clone(), std::fs::read(&path).expect("a readable file"));
            }
        }
    }
    files
}

/// Names and states of the members, as a cluster knows them.
async fn members(federation: &Federation) -> Vec<String> {
    let clusters = federation.json(WEST, &["clusters"]).await;
    let clusters = clusters["clusters"].as_array().expect("a list");
    let one = |c: &serde_json::Value| format!("{} {}", c["name"], c["state"]);
    clusters.iter().map(one).collect()
}

/// An attempt to join, and what it must be answered.
struct Attempt<'a> {
    what: &'a str,
    through: String,
    token: &'a str,
    name: &'a str,
    more: Vec<&'a str>,
    code: i32,
    words: Vec<&'a str>,
}

#[tokio::test]
async fn joins_that_must_not_be_are_refused_and_change_nothing() {
    let mut federation = Federation::start(&ONE).await;
    let used = federation.token(&[]).await;
    federation.add_with("east", "eu-west", &used).await;
    federation.is_well(WEST).await;
    let good = federation.token(&[]).await;
    let central_only = federation.token(&["--cluster", "central"]).await;
    let expired = federation.token(&["--lifetime", "1s"]).await;
    let revoked = federation.json(WEST, &["token", "create"]).await;
    let id = revoked["id"].as_str().unwrap();
    federation.cli(WEST, &["token", "revoke", id]).await.good();
    until("the token to expire", USUAL, || async {
        let listed = federation.cli(WEST, &["token", "list"]).await.good().stdout;
        if listed.contains("expired") {
            Ok(())
        } else {
            Err(listed)
        }
    })
    .await;
    let workload = federation
        .token(&["--workload", "/ns/shop/sa/payments"])
        .await;
    let before = members(&federation).await;
    assert_eq!(before.len(), 2, "{before:?}");

    let gateway = federation.gateway_addr(WEST).to_string();
    let nobody = federation.addr(WEST, 9, 15443).to_string();
    let deaf = federation.addr(WEST, 8, 15443);
    let silent = TcpListener::bind(deaf).await.unwrap();
    tradewind_runtime::task::spawn("a server of something else", async move {
        while let Ok((mut stream, _)) = silent.accept().await {
            drop(stream.write_all(b"220 mail.example ready\r\n").await);
        }
    });
    let taken = TcpListener::bind(federation.addr(2, 8, 15443))
        .await
        .unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cut: String = good.chars().take(good.len() / 2).collect();
    let attempt = |what, token, code, words: &[&'static str]| Attempt {
        what,
        through: gateway.clone(),
        token,
        name: "north",
        more: Vec::new(),
        code,
        words: words.to_vec(),
    };
    let attempts = [
        attempt(
            "no token at all",
            "letmein",
            code::REFUSED,
            &["`token`", "tw1."],
        ),
        attempt("half a token", &cut, code::REFUSED, &["`token`", "damaged"]),
        attempt(
            "a token for workloads",
            &workload,
            code::REFUSED,
            &["`token`", "workload"],
        ),
        attempt(
            "a used token",
            &used,
            code::REFUSED,
            &["`admission`", "used", "east"],
        ),
        attempt(
            "an expired token",
            &expired,
            code::REFUSED,
            &["`admission`", "expired"],
        ),
        attempt(
            "another's token",
            &central_only,
            code::REFUSED,
            &["`admission`", "central"],
        ),
        attempt(
            "a revoked token",
            revoked["token"].as_str().unwrap(),
            code::REFUSED,
            &["`admission`", "revoked"],
        ),
        Attempt {
            name: "east",
            ..attempt(
                "a name that is taken",
                &good,
                code::REFUSED,
                &["`admission`", "east", "taken"],
            )
        },
        Attempt {
            through: nobody.clone(),
            words: vec!["`connect`", &nobody],
            ..attempt("nobody there", &good, code::UNREACHABLE, &[])
        },
        Attempt {
            through: deaf.to_string(),
            ..attempt(
                "a server of something else",
                &good,
                code::UNREACHABLE,
                &["`tls`"],
            )
        },
        Attempt {
            through: "no.such.host.invalid:15443".to_owned(),
            ..attempt(
                "no such host",
                &good,
                code::UNREACHABLE,
                &["`resolve`", "no.such.host.invalid"],
            )
        },
        Attempt {
            more: vec!["--gateway", "127.0.0.1:9", "--bind", "127.0.0.1:0"],
            ..attempt(
                "no way back",
                &good,
                code::UNREACHABLE,
                &["`way-back`", "127.0.0.1:9"],
            )
        },
        Attempt {
            more: vec!["--gateway", &taken],
            words: vec!["`local`", &taken, "in use"],
            ..attempt("a port in use", &good, code::PROBLEMS, &[])
        },
    ];
    let own = federation.addr(2, host::GATEWAY, GATEWAY).to_string();
    for a in attempts {
        let dir = federation
            .dir()
            .join(format!("attempt-{}", a.what.replace(' ', "-")));
        let mut args = vec![
            "join",
            &a.through,
            "--token",
            a.token,
            "--cluster",
            a.name,
            "--region",
            "eu-north",
            "--data-dir",
            dir.to_str().unwrap(),
        ];
        if a.more.is_empty() {
            args.extend(["--gateway", &own]);
        }
        args.extend(a.more);
        let answer = run(&args).await;
        says(a.what, &answer, a.code, &a.words);
        assert!(
            !answer.stderr.contains(a.token) || a.token.len() < 20,
            "{}: the secret shows",
            a.what
        );
        assert!(!dir.exists(), "{}: a data directory is left", a.what);
    }
    assert_eq!(members(&federation).await, before);

    // The good token was spent by none of these; looking alone does not spend it either.
    for (more, joins) in [(Some("--dry-run"), false), (None, true)] {
        let dir = federation.dir().join("north");
        let args = [
            "join",
            &gateway,
            "--token",
            &good,
            "--cluster",
            "north",
            "--region",
            "eu-north",
            "--data-dir",
            dir.to_str().unwrap(),
            "--gateway",
            &own,
        ];
        let args: Vec<&str> = args.into_iter().chain(more).collect();
        run(&args).await.good();
        assert_eq!(dir.exists(), joins);
        assert_eq!(members(&federation).await.len(), if joins { 3 } else { 2 });
    }
}

/// [`Output::fails`], with the case's name.
#[track_caller]
fn says(what: &str, answer: &Output, code: i32, words: &[&str]) {
    let words: Vec<&str> = words.iter().copied().filter(|w| !w.is_empty()).collect();
    let checked = std::panic::catch_unwind(|| answer.fails(code, &words));
    assert!(checked.is_ok(), "{what}: {answer:?}");
}

async fn init(dir: &Path) -> Output {
    let dir = dir.to_str().expect("a plain path");
    let args = [
        "init",
        "--cluster",
        "west",
        "--region",
        "us-west",
        "--gateway",
        "127.0.0.1:1",
        "--data-dir",
        dir,
    ];
    run(&args).await
}

#[tokio::test]
async fn data_directories_that_cannot_be_used_are_named_and_left_alone() {
    let federation = Federation::empty();
    let dir = federation.dir();
    let good = dir.join("good");
    init(&good).await.good();
    let file = dir.join("file");
    std::fs::write(&file, "a file").unwrap();
    let below = file.join("data");
    let proc = PathBuf::from("/proc/tradewind-data");
    let foreign = dir.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letters.txt"), "dear").unwrap();
    let missing = dir.join("missing");
    let before = contents(dir);

    for (path, words) in [
        (&file, vec!["file", "not a directory"]),
        (&below, vec!["file", "not a directory"]),
        (&proc, vec!["/proc"]),
        (&foreign, vec!["foreign", "letters.txt"]),
        (&good, vec!["good", "west"]),
    ] {
        let answer = init(path).await;
        says(&path.display().to_string(), &answer, code::PROBLEMS, &words);
    }
    for (path, word) in [
        (&missing, "does not exist"),
        (&file, "not a directory"),
        (&foreign, "node.json"),
    ] {
        let answer = run(&["controller", "--data-dir", path.to_str().unwrap()]).await;
        says(
            word,
            &answer,
            code::PROBLEMS,
            &[path.to_str().unwrap(), word],
        );
    }
    for args in [
        ["gateway", "--listen", "127.0.0.1:0"],
        ["dns", "--listen", "127.0.0.1:0"],
        ["proxy", "--listen", "127.0.0.1:0=shop/payments:80"],
    ] {
        let path = missing.to_str().unwrap();
        let more = ["--admin-listen", "127.0.0.1:0", "--data-dir", path];
        let answer = run(&[args.as_slice(), &more].concat()).await;
        says(args[0], &answer, code::PROBLEMS, &[path, "does not exist"]);
    }
    // A command without a controller names the socket it looked for.
    let answer = run(&["clusters", "--data-dir", missing.to_str().unwrap()]).await;
    says(
        "clusters",
        &answer,
        code::UNREACHABLE,
        &["missing", "controller.sock"],
    );
    assert_eq!(contents(dir), before);
    assert!(!missing.exists());
}

#[tokio::test]
async fn damaged_files_are_named_and_kept() {
    let federation = Federation::empty();
    let good = federation.dir().join("good");
    init(&good).await.good();
    // What a run adds.
    let addr = |port| federation.addr(0, 1, port).to_string();
    let (listen, admin) = (addr(CONTROLLER), addr(ADMIN));
    let flags = ["--listen", &listen, "--admin-listen", &admin];
    let dir = good.to_str().unwrap();
    let args = [&["controller", "--data-dir", dir], flags.as_slice()].concat();
    let mut process = tradewind_tests::Process::start("good", federation.dir(), &args);
    federation.ready(federation.addr(0, 1, ADMIN)).await;
    assert_eq!(
        process.stop(Duration::from_secs(20)).await,
        0,
        "{}",
        process.tail()
    );

    let mut tried = Vec::new();
    for (path, bytes) in contents(&good) {
        let relative = path.strip_prefix(&good).unwrap().to_owned();
        let name = relative.to_str().unwrap().to_owned();
        // Empty files say nothing; the lock and the root's copies are not read at start.
        if bytes.is_empty() || name.contains("lock") {
            continue;
        }
        let copy = federation
            .dir()
            .join(format!("damaged-{}", name.replace('/', "-")));
        for (path, bytes) in contents(&good) {
            let to = copy.join(path.strip_prefix(&good).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(&to, bytes).unwrap();
            let mode = path.metadata().unwrap().permissions();
            std::fs::set_permissions(&to, mode).unwrap();
        }
        let damaged: Vec<u8> = bytes.iter().map(|b| b ^ 0x55).collect();
        std::fs::write(copy.join(&relative), &damaged).unwrap();
        let args = ["controller", "--data-dir", copy.to_str().unwrap()];
        let args = [args.as_slice(), flags.as_slice()].concat();
        let answer = run(&args).await;
        let named = relative.file_name().unwrap().to_str().unwrap();
        says(&name, &answer, code::PROBLEMS, &["damaged", named]);
        assert_eq!(
            std::fs::read(copy.join(&relative)).unwrap(),
            damaged,
            "{name} was kept"
        );
        tried.push(name);
    }
    for expected in ["node.json", "authority.key", "store"] {
        assert!(
            tried.iter().any(|t| t.contains(expected)),
            "{expected} in {tried:?}"
        );
    }
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let federation = Federation::empty();
    let good = federation.dir().join("good");
    init(&good).await.good();
    let dir = good.to_str().unwrap();
    let taken = federation.addr(0, 1, 4000);
    let _tcp = TcpListener::bind(taken).await.unwrap();
    let _udp = UdpSocket::bind(taken).unwrap();
    let taken = taken.to_string();
    let free: Vec<String> = (0..4)
        .map(|n| federation.addr(0, 2, 4000 + n).to_string())
        .collect();
    let outbound = format!("{taken}=shop/payments:80");
    let outbound_free = format!("{}=shop/payments:80", free[3]);
    let serves = format!("shop/payments:80={}", free[3]);
    let elsewhere = "192.0.2.1:15443";
    let cases: [(&str, &[&str], &str, &str); 10] = [
        (
            "controller",
            &["--listen", &taken, "--admin-listen", &free[1]],
            &taken,
            "--listen",
        ),
        (
            "controller",
            &["--listen", &free[0], "--admin-listen", &taken],
            &taken,
            "--admin-listen",
        ),
        (
            "gateway",
            &["--listen", &taken, "--admin-listen", &free[1]],
            &taken,
            "--listen",
        ),
        (
            "gateway",
            &["--listen", &free[0], "--admin-listen", &taken],
            &taken,
            "--admin-listen",
        ),
        (
            "gateway",
            &["--listen", elsewhere, "--admin-listen", &free[1]],
            "192.0.2.1",
            "--listen",
        ),
        (
            "dns",
            &[
                "--listen",
                &taken,
                "--admin-listen",
                &free[1],
                "--no-forwarding",
            ],
            &taken,
            "--listen",
        ),
        (
            "dns",
            &[
                "--listen",
                &free[0],
                "--admin-listen",
                &taken,
                "--no-forwarding",
            ],
            &taken,
            "--admin-listen",
        ),
        (
            "proxy",
            &[
                "--listen",
                &outbound,
                "--hbone-listen",
                &free[0],
                "--admin-listen",
                &free[1],
            ],
            &taken,
            "--listen",
        ),
        (
            "proxy",
            &[
                "--serve",
                &serves,
                "--hbone-listen",
                &taken,
                "--admin-listen",
                &free[1],
            ],
            &taken,
            "--hbone-listen",
        ),
        (
            "proxy",
            &[
                "--listen",
                &outbound_free,
                "--hbone-listen",
                &free[0],
                "--admin-listen",
                &taken,
            ],
            &taken,
            "--admin-listen",
        ),
    ];
    for (role, flags, address, flag) in cases {
        let args = [&[role, "--data-dir", dir], flags].concat();
        let answer = run(&args).await;
        says(
            &format!("{args:?}"),
            &answer,
            code::PROBLEMS,
            &[address, flag],
        );
        let cause = if address == taken {
            "in use"
        } else {
            "no address of this machine"
        };
        assert!(answer.stderr.contains(cause), "{args:?}: {}", answer.stderr);
    }
}

#[tokio::test]
async fn wrong_settings_are_named_with_the_nearest_right_one() {
    let federation = Federation::empty();
    let file = federation.dir().join("role.yaml");
    let path = file.to_str().unwrap();
    for role in ["controller", "gateway", "proxy", "dns"] {
        for (text, words) in [
            ("listen: [127.0.0.1:1\n", ["role.yaml", "YAML", ""]),
            ("- a\n- list\n", ["role.yaml", "", ""]),
            (
                "lisetn: 127.0.0.1:1\n",
                ["role.yaml", "lisetn", "did you mean `listen`?"],
            ),
            (
                "admin-listen: nowhere\n",
                ["role.yaml", "admin-listen", "nowhere"],
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            let answer = run(&[role, "--config", path]).await;
            says(&format!("{role} {text:?}"), &answer, code::USAGE, &words);
        }
    }
    let missing = run(&["dns", "--config", "/no/such/file.yaml"]).await;
    says("no file", &missing, code::USAGE, &["/no/such/file.yaml"]);
    let caller = ["proxy", "--listen", "127.0.0.1:0=shop/payments:80"];
    for (args, words) in [
        (
            vec!["gateway", "--lisen", "127.0.0.1:1"],
            vec!["--lisen", "--listen"],
        ),
        (
            vec!["gateway", "--listen", "here"],
            vec!["--listen", "here"],
        ),
        (vec!["clusers"], vec!["clusers", "clusters"]),
        (vec!["export", "payments"], vec!["payments"]),
        (vec!["proxy"], vec!["--listen", "--serve"]),
        (
            vec!["proxy", "--serve", "shop/payments=1"],
            vec!["shop/payments"],
        ),
        (
            vec![
                "proxy",
                "--listen",
                "127.0.0.1:0=shop/payments:80",
                "--identity",
                "a/b/c",
            ],
            vec!["a/b/c"],
        ),
        (
            [&caller[..], &["--trace-sampling", "2"]].concat(),
            vec!["--trace-sampling", "from 0 (none) to 1 (all)"],
        ),
        (
            [&caller[..], &["--otlp-endpoint", "https://collector:4317"]].concat(),
            vec!["--otlp-endpoint", "https is not spoken here"],
        ),
        (
            [&caller[..], &["--access-log-filter", "5xx"]].concat(),
            vec!["--access-log-filter", "all or errors"],
        ),
        (
            [&caller[..], &["--access-log", "/no/such/directory/log"]].concat(),
            vec!["access-log", "/no/such/directory/log cannot be opened"],
        ),
        (vec!["token", "create", "--lifetime", "soon"], vec!["soon"]),
        (
            vec!["init", "--cluster", "West!", "--region", "x"],
            vec!["West!"],
        ),
        (vec!["demo", "--rate", "0"], vec!["--rate"]),
    ] {
        let answer = run(&args).await;
        says(&format!("{args:?}"), &answer, code::USAGE, &words);
    }
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: shop}
spec:
  ports:
  - {name: http, port: 80}
";

#[tokio::test]
async fn broken_manifests_show_in_status_and_unknown_names_have_neighbours() {
    let mut federation = Federation::start(&ONE).await;
    let manifests = federation.dir().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let file = manifests.join("ledger.yaml");
    std::fs::write(&file, SERVICE).unwrap();
    let controller = federation.clusters[WEST].controller.as_mut().unwrap();
    controller.kill().await;
    federation.start_controller_with(WEST, &["--manifests", manifests.to_str().unwrap()]);
    let listed = || async {
        let names = federation.cli(WEST, &["services", "-o", "name"]).await;
        names.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    until("the service of the file", USUAL, || async {
        let names = listed().await;
        if names == ["shop/ledger"] {
            Ok(())
        } else {
            Err(names)
        }
    })
    .await;
    federation.is_well(WEST).await;

    // Broken, or with a field that is not understood: named with its file, and what was good stays.
    for (text, words) in [
        ("kind: [".to_owned(), ["ledger.yaml", "stays in force"]),
        (
            SERVICE.replace("ports:", "sesionAffinity: ClientIP\n  ports:"),
            ["ledger.yaml", "sesionAffinity"],
        ),
    ] {
        std::fs::write(&file, &text).unwrap();
        until(&format!("{text:?} in the status"), USUAL, || async {
            let status = federation.cli(WEST, &["status"]).await;
            let shown = words.iter().all(|w| status.stdout.contains(w));
            if status.code == code::PROBLEMS && shown {
                Ok(())
            } else {
                Err(status)
            }
        })
        .await;
        assert_eq!(listed().await, ["shop/ledger"]);
    }
    std::fs::write(&file, SERVICE).unwrap();
    federation.is_well(WEST).await;

    let before = federation.json(WEST, &["services"]).await;
    for (args, code, words) in [
        (
            vec!["export", "shop/leger"],
            code::PROBLEMS,
            vec!["shop/leger", "shop/ledger"],
        ),
        (
            vec!["endpoints", "shop/leger"],
            code::PROBLEMS,
            vec!["shop/leger", "shop/ledger"],
        ),
        (
            vec!["drain", "wets"],
            code::PROBLEMS,
            vec!["wets", "clusters"],
        ),
        (
            vec!["token", "revoke", "nothing"],
            code::PROBLEMS,
            vec!["nothing", "token list"],
        ),
    ] {
        let answer = federation.cli(WEST, &args).await;
        says(&format!("{args:?}"), &answer, code, &words);
    }
    let after = federation.json(WEST, &["services"]).await;
    assert_eq!(before["services"], after["services"]);

    // One process at a time in a data directory.
    let dir = federation.data_dir(WEST);
    let second = run(&["controller", "--data-dir", &dir]).await;
    says(
        "a second controller",
        &second,
        code::PROBLEMS,
        &[&dir, "in use"],
    );
    federation.is_well(WEST).await;
}
