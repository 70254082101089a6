//! `kind-configs/run.sh` with stand-ins for docker, kind, kubectl and helm: what it runs and in which order, what it leaves out when it runs
//! again, and how it ends when something is missing or calls fail. What its commands do to clusters is no matter here.
//!
//! Owns a directory with the stand-ins and links to the few tools that the script needs; nothing else is in its PATH.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::process::Command;
use tradewind_tests::process::{self, Output};

/// What the script may use beside the three programs that it asks for.
const TOOLS: [&str; 17] = [
    "awk", "cat", "cmp", "cut", "date", "dirname", "grep", "head", "mktemp", "rm", "sed", "sh",
    "sort", "tail", "tr", "uniq", "wc",
];

/// All programs: each writes down how it was called and answers as the real one would, from files of STATE. The caller's log grows
/// by thirty calls each time that it is read. Nobody sleeps.
const STAND_IN: &str = r#"#!/bin/sh
name=${0##*/}
echo "$name $*" >>"$STATE/log"
case "$name $*" in
"docker info") [ ! -e "$STATE/no-engine" ] || { echo "Is the docker daemon running?" >&2; exit 1; } ;;
"kind get clusters") cat "$STATE/clusters" ;;
"kind create cluster"*) file=${4##*/}; echo "${file%.yaml}" >>"$STATE/clusters" ;;
"kind delete cluster"*) : >"$STATE/clusters" ;;
*" get nodes "*) printf 172.18.0.2 ;;
*" get pod tradewind-controller-0 "*) cat "$STATE/ready" ;;
*" get service tradewind-dns "*) printf 10.21.0.53 ;;
*" get configmap coredns "*) cat "$STATE/Corefile" ;;
*" patch configmap coredns "*) sed '1,2d; s/^    //' "${11}" >"$STATE/Corefile" ;;
*" token create "*) echo "tw-token" ;;
"sleep 60") [ ! -e "$STATE/killed" ] || exit 130 ;;
"docker exec "*" mv /etc/kubernetes/manifests/"*) : >"$STATE/away" ;;
"docker exec "*" mv "*) rm "$STATE/away" ;;
*" get --raw /readyz") [ ! -e "$STATE/away" ] ;;
*"/tradewind status --data-dir "*) cat "$STATE/status" ;;
*" create namespace mcs-conformance-0 "*) echo "    tradewind.io/injection: enabled" ;;
*" apply -f "*/join-*) grep -q "address: '172.18.0.2:31443', token: 'tw-token'" "${5}" && printf true >"$STATE/ready" ;;
*" apply -f "*/caller.yaml) grep image: "${5}" >"$STATE/caller" ;;
*" scale "*--replicas=0) echo central >"$STATE/serves" ;;
*" scale "*) echo west >"$STATE/serves" ;;
*" logs "*)
    read -r n <"$STATE/n"
    read -r serves <"$STATE/serves"
    last=$((n + 30))
    while [ "$n" -lt "$last" ]; do n=$((n + 1)); echo "$n $serves/payments-x" >>"$STATE/calls"; done
    # A call that fails, and one that does not, when another cluster has begun to serve.
    [ ! -e "$STATE/failing" ] || [ "$serves" = west ] || {
        rm "$STATE/failing"
        echo "$((n + 1)) FAILED curl: (52) Empty reply from server" >>"$STATE/calls"
        n=$((n + 1))
    }
    echo "$n" >"$STATE/n"
    cat "$STATE/calls" ;;
esac
"#;

/// Of what `tradewind status` says: the founder's second controller publishes.
const STATUS: &str = "
   NODE  CLUSTER  ROLE     TRAILS
*     1  west     leader        0

   CONTROLLER  ADDRESS                                                              HEARD        PUBLISHES  REVISION
*  1           tradewind-controller-0.tradewind-controllers.tradewind-system.svc:15012  -            no               391
   3           tradewind-controller-1.tradewind-controllers.tradewind-system.svc:15012  not for 2 s  yes              391

no problems
";

struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new(programs: &[&str]) -> Self {
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for dir in ["bin", "state"] {
            fs::create_dir(machine.dir.path().join(dir)).unwrap();
        }
        let stand_in = machine.dir.path().join("stand-in");
        fs::write(&stand_in, STAND_IN).unwrap();
        fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).unwrap();
        let bin = machine.dir.path().join("bin");
        for program in programs {
            symlink(&stand_in, bin.join(program)).unwrap();
        }
        symlink(&stand_in, bin.join("sleep")).unwrap();
        for tool in TOOLS {
            symlink(found(tool), bin.join(tool)).unwrap();
        }
        for (file, text) in [
            ("log", ""),
            ("clusters", ""),
            ("ready", ""),
            ("Corefile", ".:53 {\n    errors\n}\n"),
            ("serves", "west\n"),
            ("n", "0\n"),
            ("calls", ""),
            ("status", STATUS),
        ] {
            machine.tell(file, text);
        }
        machine
    }

    fn tell(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join("state").join(file), text).unwrap();
    }

    fn told(&self, file: &str) -> String {
        fs::read_to_string(self.dir.path().join("state").join(file)).unwrap()
    }

    async fn run(&self, args: &[&str]) -> Output {
        self.tell("log", "");
        let mut command = Command::new(found("sh"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kind-configs/run.sh");
        command.arg(script).args(args).env_clear();
        command.env("PATH", self.dir.path().join("bin"));
        command.env("STATE", self.dir.path().join("state"));
        process::finish(command).await
    }
}

/// Where a tool of this machine is.
fn found(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut all = std::env::split_paths(&path).map(|dir| dir.join(tool));
    let place = all.find(|path| path.is_file());
    place.ok_or(format!("{tool} is not in PATH")).unwrap()
}

/// Panics unless lines with all these words come one after another, with others between.
#[track_caller]
fn in_order(log: &str, expected: &[&str]) {
    let mut lines = log.lines();
    for words in expected {
        let is = |line: &str| words.split(' ').all(|word| line.contains(word));
        assert!(lines.any(is), "{words:?} is missing, or too early: {log}");
    }
}

const ALL: [&str; 3] = ["docker", "kind", "kubectl"];

/// The story, by words of each command.
const ORDER: [&str; 38] = [
    "docker build deploy/Dockerfile tradewind:kind",
    "kind create west.yaml",
    "kind load tradewind:kind west",
    "kind create central.yaml",
    "docker run install cluster.name=west us-west found=true controller.replicas=2 type=NodePort nodePort=31443",
    "kind-west apply --server-side install-west.yaml",
    "kind-west rollout tradewind-controller",
    "kind-west status --wait",
    "docker run install cluster.name=central us-central found=false controller.replicas=2",
    "kind-central apply --server-side install-central.yaml",
    "kind-west token create --cluster central",
    "kind-central apply join-central.yaml",
    "kind-central delete pod tradewind-controller-0",
    "kind-central rollout tradewind-controller",
    "kind-central delete secret tradewind-join",
    "kind-west patch coredns",
    "kind get kubeconfig --internal west",
    "docker run --network kind check --context kind-west",
    "kind-central status --wait",
    "kind-central get configmap coredns",
    "docker run --network kind check --context kind-central",
    "kind-west apply payments-west.yaml",
    "kind-central apply payments-central.yaml",
    "kind-west apply caller.yaml",
    "kind-west rollout caller",
    "kind-west exec caller http://payments.shop.svc.clusterset.local/",
    "kind-west scale --replicas=0",
    "kind-west scale --replicas=2",
    "kind-west exec tradewind-controller-0 tradewind status --data-dir",
    "kind-west delete pod tradewind-controller-",
    "kind-west rollout tradewind-controller",
    "kind-west status --wait",
    "docker exec west-control-plane mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/kube-apiserver.yaml",
    "kind-west get --raw /readyz",
    "docker exec west-control-plane mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/kube-apiserver.yaml",
    "kind-west get --raw /readyz",
    "kind-west logs caller",
    "kind delete central",
];
/// Those without the last, for clusters that are kept.
const KEPT: usize = ORDER.len() - 1;

#[tokio::test]
async fn a_dry_run_says_all_in_order_and_runs_nothing() {
    let machine = Machine::new(&ALL);
    let said = machine
        .run(&["--clusters", "2", "--dry-run"])
        .await
        .good()
        .stdout;
    in_order(&said, &ORDER);
    assert!(!said.contains("east.yaml"), "two clusters: {said}");
    assert_eq!(machine.told("log"), "");
    let three = machine.run(&["--dry-run", "--keep"]).await.good().stdout;
    in_order(&three, &ORDER[..KEPT]);
    in_order(&three, &["cluster.name=east eu-west", "--cluster east"]);
    assert!(!three.contains("kind delete"), "they are kept: {three}");
    let delete = machine.run(&["--delete", "--dry-run"]).await.good().stdout;
    let names = ["west", "central", "east"];
    let expected = names.map(|name| format!("kind delete cluster --name {name}\n"));
    assert_eq!(delete, expected.concat());
}

#[tokio::test]
async fn every_step_is_run_once_and_calls_are_counted() {
    let machine = Machine::new(&ALL);
    let first = machine.run(&["--clusters", "2", "--keep"]).await.good();
    let log = machine.told("log");
    in_order(&log, &ORDER[..KEPT]);
    in_order(
        &log,
        &["kind-west delete pod tradewind-controller-1", "sleep 60"],
    );
    let corefile = ".:53 {\n    errors\n}\nclusterset.local:53 {\n    errors\n    cache 5\n    forward . 10.21.0.53\n}\n";
    assert_eq!(machine.told("Corefile"), corefile);
    let lines: Vec<_> = first.stdout.lines().collect();
    // The first look is at what was before; the first thirty calls settle the start and are not counted.
    let calls = |of: &str| lines.iter().filter(|l| l.starts_with(of)).count();
    assert_eq!(
        (calls("west payments-x"), calls("central payments-x")),
        (120, 30)
    );
    let end = [
        "calls: 120, failed: 0",
        "answered by central: 30",
        "answered by west: 90",
    ];
    assert_eq!(lines[lines.len() - 3..], end);

    let again = machine.run(&["--clusters", "2"]).await.good();
    let log = machine.told("log");
    for done in [
        "kind create",
        "token create",
        "patch configmap",
        "rollout restart",
    ] {
        assert!(!log.contains(done), "{done} was done before: {log}");
    }
    in_order(&log, &["kind export kubeconfig west", "scale --replicas=0"]);
    in_order(&log, &["kind delete west", "kind delete central"]);
    assert!(
        again.stdout.ends_with("answered by west: 90\n"),
        "{again:?}"
    );
    assert_eq!(machine.told("Corefile"), corefile);
}

#[tokio::test]
async fn images_of_ones_own_are_used_where_they_are_named() {
    let machine = Machine::new(&ALL);
    let two = ["--clusters", "2", "--keep"];
    machine.run(&two).await.good();
    assert!(machine.told("caller").contains("agnhost"));
    let log = machine.told("log");
    assert!(!log.contains("--image"), "kind knows its own: {log}");

    let machine = Machine::new(&ALL);
    let own = ["--node-image", "node:1", "--caller-image", "own/caller:1"];
    machine.run(&[&two[..], &own].concat()).await.good();
    assert_eq!(machine.told("caller").trim(), "image: own/caller:1");
    let log = machine.told("log");
    for expected in [
        "west.yaml --image node:1 --wait",
        "central.yaml --image node:1 --wait",
        "kind load docker-image tradewind:kind own/caller:1 --name west",
        "kind load docker-image tradewind:kind own/caller:1 --name central",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    for flag in [own[0], own[2]] {
        machine.run(&[flag]).await.fails(2, &[flag]);
    }
}

#[tokio::test]
async fn helm_installs_where_it_is_told_to() {
    let machine = Machine::new(&[&ALL[..], &["helm"]].concat());
    let args = ["--clusters", "2", "--keep", "--helm", "--controllers", "3"];
    machine.run(&args).await.good();
    let log = machine.told("log");
    in_order(
        &log,
        &[
            "helm upgrade --install tradewind deploy/chart/tradewind --kube-context kind-west --namespace tradewind-system --create-namespace cluster.name=west found=true controller.replicas=3",
            "helm upgrade --install --kube-context kind-central cluster.gateways=172.18.0.2:31443 found=false controller.replicas=3",
        ],
    );
    assert!(
        !log.contains("docker run --rm tradewind:kind install"),
        "{log}"
    );
    let without = Machine::new(&ALL).run(&["--helm"]).await;
    without.fails(2, &["not in PATH: helm", "go install helm.sh/helm"]);
}

#[tokio::test]
async fn the_suite_runs_between_all_clusters_that_label_its_namespaces() {
    let machine = Machine::new(&[&ALL[..], &["mcs.test"]].concat());
    let suite = machine.dir.path().join("bin/mcs.test");
    let suite = suite.to_string_lossy();
    let args = [
        "--clusters",
        "2",
        "--load",
        "a/b:1",
        "--conformance",
        &suite,
    ];
    let told = machine.run(&args).await.good();
    assert!(told.stderr.contains("report.yaml"), "{}", told.stderr);
    in_order(
        &machine.told("log"),
        &[
            "kind load docker-image tradewind:kind a/b:1 --name west",
            "kind-west apply conformance.yaml",
            "kind-west create namespace mcs-conformance-0 --dry-run=server",
            "kind-central apply conformance.yaml",
            "mcs.test -kubeconfig -contexts kind-west,kind-central",
            "kind-west delete -f conformance.yaml",
            "kind delete central",
        ],
    );
    let absent = machine.run(&["--conformance", "/absent"]).await;
    absent.fails(2, &["/absent is no program", "docs/mcs-conformance.md"]);
}

#[tokio::test]
async fn whatever_ends_it_the_api_server_comes_back() {
    let machine = Machine::new(&ALL);
    machine.tell("killed", "");
    let output = machine.run(&["--clusters", "2"]).await;
    assert_eq!(output.code, 130, "{}", output.stderr);
    let log = machine.told("log");
    assert!(!machine.dir.path().join("state/away").exists(), "{log}");
    assert!(!log.contains("kind delete"), "{log}");
}

#[tokio::test]
async fn calls_that_fail_are_told_and_the_clusters_stay() {
    let machine = Machine::new(&ALL);
    machine.tell("failing", "");
    let output = machine.run(&["--clusters", "2"]).await;
    output.fails(1, &["1 calls failed"]);
    let reason = "FAILED curl: (52) Empty reply from server\n";
    assert!(output.stdout.contains(reason), "{}", output.stdout);
    assert!(!machine.told("log").contains("kind delete"));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let machine = Machine::new(&["kubectl"]);
    let output = machine.run(&[]).await;
    output.fails(2, &["docker kind", "go install sigs.k8s.io/kind"]);
    let machine = Machine::new(&ALL);
    machine.tell("no-engine", "");
    let output = machine.run(&["--delete"]).await;
    output.fails(3, &["Is the docker daemon running?"]);
    for (wrong, word) in [
        (&["--clusters", "4"][..], "clusters"),
        (&["--clusters"], "clusters"),
        (&["--cluster=2"], "cluster"),
        (&["--controllers", "4"], "controllers"),
        (&["--conformance"], "conformance"),
    ] {
        machine.run(wrong).await.fails(2, &[word]);
        assert_eq!(machine.told("log"), "", "nothing was run");
    }
    let help = machine.run(&["--help"]).await.good().stdout;
    assert!(help.contains("Exit codes:"), "{help}");
}
