//! What the lab's pods are to whoever works with them: names by CoreDNS, commands and logs through the API server, and nothing left of
//! one that was deleted by force.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};
use tradewind_tests::{
    kubernetes::{self, Clusters, Running},
    namespaces::inside,
    wait::until,
};

/// The whole story; most of it is waiting for servers to start on few cores.
const LIMIT: Duration = Duration::from_secs(400);
/// Anything that pods must first start for, on busy cores with reserve.
const SOON: Duration = Duration::from_secs(120);

/// What the pod's child is told, by which it is found after the pod was deleted: like nobody else's on this machine.
fn mark() -> String {
    format!("30031.{}", std::process::id())
}

/// A pod whose first process does not pass signals on, as shells do not.
const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: request}
spec:
  containers:
  - name: request
    image: plain:1
    command: [sh, -c]
    args: ['echo one; echo two; sleep $(CHILD); echo three']
    env: [{name: CHILD, value: 'MARK'}, {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
";

#[tokio::test]
async fn pods_have_names_commands_logs_and_an_end() {
    let name = "pods_have_names_commands_logs_and_an_end";
    inside(name, LIMIT, false, || async {
        let running = Running {
            programs: vec![("plain".to_owned(), PathBuf::from("/usr/bin/env"))],
            between_port: None,
        };
        if let Some(clusters) = Clusters::start_running(name, ["west"], &running).await {
            story(&clusters).await;
        }
    })
    .await;
}

async fn story(clusters: &Clusters) {
    clusters
        .apply("west", &POD.replace("MARK", &mark()))
        .await
        .good();
    let wait = ["wait", "--for=condition=Ready", "pod/request"];
    clusters.kubectl("west", &wait).await.good();
    commands(clusters).await;
    names(clusters).await;
    logs(clusters).await;
    an_end(clusters).await;
}

/// A command has the container's environment and network, what it is given, its two streams apart, and its own exit code.
async fn commands(clusters: &Clusters) {
    let script = "echo $CHILD $IPS; cat; echo aside >&2; exit 3";
    let mut command = Command::new(kubernetes::program().unwrap());
    command
        .args(["kubectl", "--kubeconfig"])
        .arg(clusters.kubeconfig())
        .args(["exec", "-i", "request", "--", "sh", "-c", script])
        .env("HOME", clusters.dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    drop(stdin);
    let said = child.wait_with_output().await.unwrap();
    let get = ["get", "pod", "request", "-o", "jsonpath={.status.podIP}"];
    let ip = clusters.kubectl("west", &get).await.good().stdout;
    let out = String::from_utf8(said.stdout).unwrap();
    assert_eq!(out, format!("{} {ip}\nhello\n", mark()));
    let aside = String::from_utf8(said.stderr).unwrap();
    assert!(aside.starts_with("aside\n"), "{aside}");
    assert_eq!(said.status.code(), Some(3));
    let nobody = ["exec", "request", "-c", "nobody", "--", "true"];
    assert_ne!(clusters.kubectl("west", &nobody).await.code, 0);
}

/// A Service's name is answered by the cluster's DNS server.
async fn names(clusters: &Clusters) {
    // Its address and no other name of it stand in the pod's own file, so this is asked of the server.
    let get = ["get", "service", "kube-dns", "-n", "kube-system"];
    let get = [&get[..], &["-o", "jsonpath={.spec.clusterIP}"]].concat();
    let server = clusters.kubectl("west", &get).await.good().stdout;
    let name = "_dns._udp.kube-dns.kube-system.svc.cluster.local";
    until("an answer", SOON, async || {
        let ask = ["exec", "request", "--", "getent", "ahostsv4", name];
        let answer = clusters.kubectl("west", &ask).await;
        match answer.stdout.starts_with(&server) {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .await;
}

/// What a container said, whole and the end of it.
async fn logs(clusters: &Clusters) {
    for (more, wanted) in [(&[][..], "one\ntwo\n"), (&["--tail=1"], "two\n")] {
        let words = [&["logs", "request"], more].concat();
        let said = clusters.kubectl("west", &words).await.good();
        assert_eq!(said.stdout, wanted);
    }
}

/// The API server knows nothing of it any more, and soon nothing of it runs: not even what a shell started.
async fn an_end(clusters: &Clusters) {
    assert_eq!(sleepers().len(), 1);
    let delete = ["delete", "pod", "request", "--force"];
    clusters.kubectl("west", &delete).await.good();
    until(
        "the pod's processes to end",
        SOON,
        async || match sleepers() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        },
    )
    .await;
}

/// The processes of this machine that are the pod's child.
fn sleepers() -> Vec<u32> {
    let words = format!("sleep\0{}\0", mark());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| {
            let line = std::fs::read(format!("/proc/{id}/cmdline"));
            line.is_ok_and(|line| line == words.as_bytes())
        })
        .collect()
}
