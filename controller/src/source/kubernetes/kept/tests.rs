//! What is kept, over a restart: the file, and the source that begins with it.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tradewind_kubernetes::{Kind, managed::Resource};
use tradewind_runtime::{clock, drain};

use super::*;
use crate::source::{
    Problem, SourceModel,
    kubernetes::{Memory, Told, View, complete::NEEDED, rule_kinds, run},
};

const SERVER: &str = "https://127.0.0.1:6443/";

/// As version 1 wrote it. A later version reads this.
const VERSION_1: &str = r#"{
  "server": "https://127.0.0.1:6443/",
  "at_ms": 1767323045000,
  "services": [[{"namespace": "shop", "name": "cart"}, {
    "kind": "ClusterIp", "cluster_ips": ["10.96.0.7"], "ip_families": ["IPv4"],
    "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
    "client_ip_affinity_s": null, "internal_traffic_policy": "Cluster", "traffic_distribution": null}]],
  "slices": [[{"namespace": "shop", "name": "cart-1"}, {
    "service": {"namespace": "shop", "name": "cart"}, "ports": [{"name": "http", "port": 8080}],
    "endpoints": [{"ip": "10.0.0.1", "ready": true, "serving": true, "terminating": false, "hostname": null, "zone": "a", "pod": "p"}]}]],
  "pods": [[{"namespace": "shop", "name": "p"}, {"ips": ["10.0.0.1"], "account": "web", "labels": {"app": "cart"}}]],
  "exports": [[{"namespace": "shop", "name": "cart"}, {
    "uid": "u", "created_at_ms": 1767323000000, "generation": 1, "labels": {}, "annotations": {}, "conditions": []}]],
  "rules": [[{"namespace": "shop", "name": "split"}, {
    "object": {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "split", "namespace": "shop"}, "spec": {}},
    "parents": []}]]
}"#;

fn objects() -> Objects {
    let kept: Kept = serde_json::from_str(VERSION_1).unwrap();
    let mut objects = Objects::default();
    for change in kept.changes() {
        objects.take(change);
    }
    objects
}

#[test]
fn the_first_version_is_read_and_what_is_written_is_read() {
    let kept: Kept = serde_json::from_str(VERSION_1).unwrap();
    assert_eq!(Kept::of(&objects(), SERVER, kept.at_ms), kept);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    assert_eq!(read(&path, SERVER), None);
    write(&path, &kept).unwrap();
    assert_eq!(read(&path, SERVER), Some(kept));
    assert_eq!(
        read(&path, "https://elsewhere/"),
        None,
        "another API server's objects are none of this one's"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_as_good_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, "torn").unwrap();
    assert_eq!(read(&path, SERVER), None);
    files::write_framed(&path, MAGIC, VERSION, b"{\"no\": 1}", 0o600).unwrap();
    assert_eq!(read(&path, SERVER), None);
    files::write_framed(&path, MAGIC, VERSION + 1, VERSION_1.as_bytes(), 0o600).unwrap();
    assert_eq!(read(&path, SERVER), None);
}

#[test]
fn many_objects_are_written_more_seldom() {
    let mut many = objects();
    assert!(spacing(&many) < SPACING + Duration::from_millis(1));
    let pod = Arc::clone(many.pods.values().next().unwrap());
    let pods = (0..40_000).map(|n| (Key::new("shop", format!("p{n}")), Arc::clone(&pod)));
    many.pods.extend(pods);
    assert_eq!(spacing(&many).as_secs(), 11);
}

/// All kinds that the source waits for, listed, with these objects.
fn lists(objects: &Objects) -> Vec<Change> {
    let mut by_kind: BTreeMap<Kind, Vec<(Key, Object)>> = NEEDED
        .into_iter()
        .chain(
            rule_kinds()
                .iter()
                .map(tradewind_kubernetes::watch::Served::rule),
        )
        .chain(Resource::ALL.map(Kind::Owned))
        .map(|kind| (kind, Vec::new()))
        .collect();
    for change in Kept::of(objects, SERVER, 0).changes() {
        let Change::Set(key, object) = change else {
            panic!("{change:?}");
        };
        let kind = match &object {
            Object::Service(_) => Kind::Service,
            Object::Slice(_) => Kind::Slice,
            Object::Pod(_) => Kind::Pod,
            Object::Bare => Kind::Bare,
            Object::Export(_) => Kind::Export,
            Object::Rule(_) => Kind::Rule("HTTPRoute.gateway.networking.k8s.io".to_owned()),
            Object::Namespace(_) | Object::Owned(..) => panic!("{object:?}"),
        };
        by_kind.get_mut(&kind).unwrap().push((key, object));
    }
    by_kind
        .into_iter()
        .map(|(kind, all)| Change::All(kind, all))
        .collect()
}

struct Source {
    changes: mpsc::Sender<Change>,
    model: watch::Receiver<Arc<SourceModel>>,
    view: watch::Receiver<Arc<View>>,
    kept: watch::Receiver<Option<Arc<Kept>>>,
    trigger: drain::Trigger,
}

impl Source {
    fn start(before: Option<Kept>) -> Self {
        let (changes, taken) = mpsc::channel(64);
        let (model_tx, model) = watch::channel(Arc::default());
        let (view_tx, view) = watch::channel(Arc::default());
        let (handed, kept) = watch::channel(None);
        let (trigger, drain) = drain::channel();
        let memory = Memory {
            before,
            handed,
            server: SERVER.to_owned(),
            clock: clock::system(),
        };
        let told = Told {
            model: model_tx,
            view: view_tx,
        };
        drop(task::spawn(
            "source",
            run(taken, told, memory, drain.observer()),
        ));
        Self {
            changes,
            model,
            view,
            kept,
            trigger,
        }
    }

    async fn tell(&self, changes: Vec<Change>) {
        for change in changes {
            self.changes.send(change).await.unwrap();
        }
    }

    async fn next(&mut self) -> Arc<SourceModel> {
        self.model.changed().await.unwrap();
        Arc::clone(&self.model.borrow_and_update())
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_begins_with_what_was_kept_and_takes_nothing_away_before_all_is_listed() {
    let mut first = Source::start(None);
    first.tell(lists(&objects())).await;
    let told = first.next().await;
    assert!(told.problems.is_empty(), "{:?}", told.problems);
    assert_eq!(told.services.len(), 1);
    first.kept.changed().await.unwrap();
    let kept = first.kept.borrow_and_update().clone().unwrap();

    let mut second = Source::start(Some((*kept).clone()));
    let before = second.next().await;
    assert!(before.read);
    assert_eq!(before.services, told.services);
    assert_eq!(before.exports, told.exports);
    assert_eq!(before.policy, told.policy);
    let [problem] = &before.problems[..] else {
        panic!("{:?}", before.problems);
    };
    assert!(problem.text.contains("was not read whole"), "{problem}");
    assert!(!second.view.borrow().read, "nothing is to be written yet");

    // All but one kind: another object of a kind that is complete shows no earlier than the rest.
    let mut lists = lists(&Objects::default());
    let pods = lists
        .iter()
        .position(|change| matches!(change, Change::All(Kind::Pod, _)))
        .unwrap();
    let pods = lists.remove(pods);
    second.tell(lists).await;
    tokio::time::sleep(SPACING * 5).await;
    assert!(!second.model.has_changed().unwrap(), "Pods are not listed");
    second.tell(vec![pods]).await;
    let after = second.next().await;
    assert!(after.services.is_empty() && after.exports.is_empty() && after.policy.is_empty());
    assert!(after.problems.is_empty(), "{:?}", after.problems);
}

/// Where nothing was kept, too, and the list that comes at last counts.
#[tokio::test(start_paused = true)]
async fn a_kind_of_rules_that_is_not_listed_holds_up_nothing_and_what_was_kept_of_it_stands() {
    let route = Kind::Rule("HTTPRoute.gateway.networking.k8s.io".to_owned());
    let kept: Kept = serde_json::from_str(VERSION_1).unwrap();
    for before in [None, Some(kept)] {
        let remembered = before.is_some();
        let mut source = Source::start(before);
        let (routes, others): (Vec<_>, Vec<_>) = lists(&objects())
            .into_iter()
            .partition(|change| matches!(change, Change::All(kind, _) if *kind == route));
        let refused = |why: &str| vec![Change::Refused(route.clone(), why.to_owned())];
        let is_told = |problem: &Problem| problem.place == format!("kind {route}");
        source.tell(refused("you may not list it")).await;
        let model = &mut source.model;
        let told = model.wait_for(|m| m.problems.iter().any(is_told)).await;
        let told = Arc::clone(&told.unwrap());
        assert_eq!(told.read, remembered, "nothing else is known yet");
        assert_eq!(told.services.len(), usize::from(remembered));
        assert_eq!(told.policy.len(), usize::from(remembered));

        let since = tokio::time::Instant::now();
        source.tell(others).await;
        let whole = |m: &Arc<SourceModel>| m.read && m.problems.iter().all(is_told);
        let told = source.model.wait_for(whole).await;
        let told = Arc::clone(&told.unwrap());
        let waited = since.elapsed();
        assert!((5..7).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(told.services.len(), 1);
        assert_eq!(told.policy.len(), usize::from(remembered));
        let [problem] = &told.problems[..] else {
            panic!("{:?}", told.problems);
        };
        assert!(problem.text.contains("you may not list it"), "{problem}");

        source.tell(routes).await;
        let told = source.model.wait_for(|m| m.problems.is_empty()).await;
        assert_eq!(told.unwrap().policy.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_rest_is_told_at_once_and_a_storm_of_them_in_few_steps() {
    let mut source = Source::start(None);
    source.tell(lists(&objects())).await;
    source.next().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (key, service) = {
        let objects = objects();
        let (name, service) = objects.services.iter().next().unwrap();
        (Key::from(name), Service::clone(service))
    };
    let turned = |n: u16| {
        let mut service = service.clone();
        service.ports[0].port = n;
        vec![Change::Set(key.clone(), Object::Service(service))]
    };
    let since = tokio::time::Instant::now();
    source.tell(turned(1)).await;
    source.next().await;
    assert_eq!(since.elapsed(), Duration::ZERO);
    // One each millisecond, for a second.
    let (changes, model) = (source.changes.clone(), source.model.clone());
    let steps = task::spawn("count", async move {
        let (mut model, mut steps) = (model, 0);
        while model.changed().await.is_ok() {
            steps += 1;
            let port = |m: &Arc<SourceModel>| m.services.values().next().unwrap().ports[0].port;
            if port(&model.borrow_and_update()) == 1_002 {
                break;
            }
        }
        steps
    });
    for n in 3..=1_002 {
        for change in turned(n) {
            changes.send(change).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let steps = steps.await.unwrap();
    assert!((45..=55).contains(&steps), "{steps} steps in a second");
}

#[tokio::test(start_paused = true)]
async fn what_changed_last_is_handed_over_at_the_end() {
    let mut source = Source::start(None);
    source.tell(lists(&objects())).await;
    source.next().await;
    assert!(source.kept.borrow().is_none(), "not before its time");
    source.trigger.drain(SPACING).await;
    source.kept.changed().await.unwrap();
    let kept = source.kept.borrow_and_update().clone().unwrap();
    assert_eq!(kept.services.len(), 1);
    assert!(source.kept.changed().await.is_err(), "and then no more");
}

#[tokio::test]
async fn what_is_handed_over_is_on_disk_before_the_drain_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let (handed, to_keep) = watch::channel(None);
    let (trigger, drain) = drain::channel();
    let kept: Kept = serde_json::from_str(VERSION_1).unwrap();
    drop(task::spawn("keep", write_all(path.clone(), to_keep, drain)));
    handed.send_replace(Some(Arc::new(kept.clone())));
    drop(handed);
    assert!(trigger.drain(Duration::from_secs(30)).await);
    assert_eq!(read(&path, SERVER), Some(kept));
}
