//! A controller with its account's rights: what it may, what it writes, and how it starts while its API server is away.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tradewind_controller::source::kubernetes::rule_kinds;
use tradewind_runtime::task;
use tradewind_tests::{
    federation::{ADMIN, Federation, host},
    http as client,
    kubernetes::Clusters,
    wait,
};

use crate::{SOON, check, get, pods::pod, tradewind};

/// Kinds that other projects bring: those that rules are read from, with nothing of their schemas.
pub(crate) async fn every_kind_of_rule_is_served(clusters: &Clusters) {
    let mut all = String::new();
    for kind in rule_kinds() {
        let version = kind.versions[0];
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{}.{}", kind.plural, kind.group),
                "annotations": { "api-approved.kubernetes.io": "unapproved, for a test" },
            },
            "spec": {
                "group": kind.group,
                "scope": "Namespaced",
                "names": { "kind": kind.kind, "plural": kind.plural },
                "versions": [{
                    "name": version, "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
                }],
            },
        });
        all.push_str(&format!("---\n{crd}\n"));
    }
    clusters.apply("west", &all).await.good();
}

/// A cluster's controller with the rights of its account and nothing more, and the webhook that the chart has it serve.
pub(crate) async fn by_the_controllers_account(clusters: &Clusters) -> Federation {
    let namespace = ["-n", "tradewind-system"];
    let injection = [&namespace[..], &["configmap", "tradewind-injection"]].concat();
    let injection = get(clusters, &injection).await;
    let mut federation = Federation::empty();
    let settings = federation.dir().join("injection.yaml");
    let text = injection["data"]["injection.yaml"].as_str().unwrap();
    std::fs::write(&settings, text).unwrap();
    let words = [&namespace[..], &["create", "token", "tradewind-controller"]].concat();
    let token = clusters.kubectl("west", &words).await.good().stdout;
    let view = [
        "config",
        "view",
        "--raw",
        "--minify",
        "--flatten",
        "-o",
        "json",
    ];
    let mut config = clusters.kubectl("west", &view).await.good().json();
    config["users"][0]["user"] = json!({ "token": token.trim() });
    let file = federation.dir().join("kubeconfig");
    std::fs::write(&file, config.to_string()).unwrap();
    federation.kubeconfig = Some(file);
    let settings = settings.to_string_lossy().into_owned();
    federation.controller_flags = [
        "--webhook-listen=127.0.0.1:0",
        "--webhook-name=localhost",
        "--injection-file",
        &settings,
    ]
    .map(ToOwned::to_owned)
    .into();
    federation.add("west", "us-west").await;
    federation
}

/// Where the controller's webhook listens.
pub(crate) async fn webhook(federation: &Federation) -> SocketAddr {
    let admin = federation.addr(0, host::CONTROLLER, ADMIN);
    let page = client::get(admin, "/debug/config").await.unwrap();
    let config: Value = serde_json::from_str(&page.text()).unwrap();
    config["webhook"]["listen"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

/// Asks as an API server does, whose part it can take while that one is away.
async fn the_webhook_answers(federation: &Federation) {
    let ca = Path::new(&federation.data_dir(0)).join("webhook.pem");
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(webhook(federation).await).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = TokioIo::new(connector.connect(name, stream).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let driver = task::spawn("webhook client", async { drop(connection.await) });
    let pod: Value = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "app", "image": "a:1"}]}});
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod,
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
        },
    });
    let request = Request::post("/inject")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["response"]["allowed"], true, "{body}");
    assert_eq!(body["response"]["patchType"], "JSONPatch", "{body}");
    driver.abort();
}

/// What the controller writes: exports by command, imports, slices, properties, the roots, and conditions.
pub(crate) async fn the_controller_tells_the_api_server(
    clusters: &Clusters,
    federation: &Federation,
) {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {selector: {app: web}, ports: [{name: http, port: 80}]}}";
    clusters.apply("west", service).await.good();
    exports_are_made_and_ended_by_command(clusters, federation).await;
    let condition = "--for=condition=Ready";
    let words = [
        "wait",
        "-n",
        "shop",
        "serviceexport",
        "web",
        condition,
        "--timeout=50s",
    ];
    clusters.kubectl("west", &words).await.good();
    let imported = "multicluster.kubernetes.io/service-name=web";
    for (what, is) in [
        (
            vec!["-n", "shop", "serviceimport", "web"],
            "/status/conditions/0",
        ),
        (
            vec!["-n", "shop", "endpointslices", "-l", imported],
            "/items/0/endpoints/0",
        ),
        (
            vec!["-n", "shop", "configmap", "tradewind-root"],
            "/data/root.pem",
        ),
        (vec!["clusterproperty", "clusterset.k8s.io"], "/spec/value"),
    ] {
        wait::until(is, SOON, async || {
            let words = [&["get", "-o", "json", "--ignore-not-found"], &what[..]].concat();
            let told = clusters.kubectl("west", &words).await.good().stdout;
            let found: Value = serde_json::from_str(&told).unwrap_or_default();
            found.pointer(is).map(|_| ()).ok_or(told)
        })
        .await;
    }
    // An export of nothing, which was there before the controller was.
    let export = get(clusters, &["serviceexport", "web"]).await;
    let conditions = export["status"]["conditions"].to_string();
    assert!(conditions.contains("NoService"), "{conditions}");
}

async fn exports_are_made_and_ended_by_command(clusters: &Clusters, federation: &Federation) {
    let export = [
        "serviceexport",
        "web",
        "-n",
        "shop",
        "-o",
        "name",
        "--ignore-not-found",
    ];
    let export = [&["get"], &export[..]].concat();
    let made = wait::until("the service is known", SOON, async || {
        let told = federation
            .cli(0, &["export", "shop/web", "-o", "json"])
            .await;
        if told.code == 0 {
            Ok(told.json())
        } else {
            Err(told.stderr)
        }
    })
    .await;
    assert_eq!(made["schema"], "tradewind.export/v1");
    assert_eq!(
        (&made["exported"], &made["changed"]),
        (&json!(true), &json!(true))
    );
    let there = clusters.kubectl("west", &export).await.good().stdout;
    assert!(there.contains("serviceexport"), "{there}");
    let again = federation.json(0, &["export", "shop/web"]).await;
    assert_eq!(again["changed"], false);
    let absent = federation.cli(0, &["export", "shop/wep"]).await;
    assert_ne!(absent.code, 0);
    assert!(
        absent.stderr.contains("did you mean shop/web?"),
        "{}",
        absent.stderr
    );

    let ended = federation.json(0, &["unexport", "shop/web"]).await;
    assert_eq!(
        (&ended["exported"], &ended["changed"]),
        (&json!(false), &json!(true))
    );
    let gone = clusters.kubectl("west", &export).await.good().stdout;
    assert_eq!(gone, "");
    // What somebody keeps in files is his.
    let file = "{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: web, namespace: shop}}";
    clusters.apply("west", file).await.good();
    wait::until("the refusal", SOON, async || {
        let told = federation.cli(0, &["unexport", "shop/web"]).await;
        let (who, how) = (
            "kubectl-client-side-apply",
            "kubectl delete serviceexport -n shop web",
        );
        if told.stderr.contains(who) && told.stderr.contains(how) {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let there = clusters.kubectl("west", &export).await.good().stdout;
    assert!(there.contains("serviceexport"), "{there}");
}

fn route(backend: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: split, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}}}"
    )
}

/// By the status that the API has for it, beside what another controller says there.
pub(crate) async fn routes_are_told_of_themselves(clusters: &Clusters) {
    clusters.apply("west", &route("web")).await.good();
    let other = json!({"parentRef": {"name": "edge"}, "controllerName": "example.com/gateway", "conditions": []});
    // Once ours stands there: whoever writes the whole list without looking takes away what others say.
    let parents = async |accepts: &dyn Fn(&Value) -> bool| {
        wait::until("what the route is told", SOON, async || {
            let found = get(clusters, &["-n", "shop", "httproute", "split"]).await;
            let all = found["status"]["parents"].as_array().cloned();
            let all = all.unwrap_or_default();
            let ours = all
                .iter()
                .find(|p| p["controllerName"] == "tradewind.io/mesh-controller");
            match ours {
                Some(ours) if accepts(ours) => Ok((ours.clone(), all)),
                _ => Err(found),
            }
        })
        .await
    };
    let is = |condition: &Value, kind: &str, status: &str| {
        condition["type"] == kind && condition["status"] == status
    };
    let (first, _) = parents(&|p| is(&p["conditions"][1], "ResolvedRefs", "True")).await;
    assert!(is(&first["conditions"][0], "Accepted", "True"), "{first}");
    assert_eq!(first["conditions"][0]["observedGeneration"], 1);
    assert_eq!(first["parentRef"]["name"], "web");
    let since = first["conditions"][0]["lastTransitionTime"].clone();
    assert!(since.is_string(), "{first}");

    let patch = json!([{ "op": "add", "path": "/status/parents/0", "value": other }]).to_string();
    let words = [
        "patch",
        "httproute",
        "split",
        "-n",
        "shop",
        "--subresource=status",
        "--type=json",
        "-p",
        &patch,
    ];
    clusters.kubectl("west", &words).await.good();
    clusters.apply("west", &route("nobody")).await.good();
    let (second, all) = parents(&|p| is(&p["conditions"][1], "ResolvedRefs", "False")).await;
    assert_eq!(second["conditions"][1]["reason"], "BackendNotFound");
    assert_eq!(second["conditions"][0]["lastTransitionTime"], since);
    assert_eq!(second["conditions"][0]["observedGeneration"], 2);
    assert_eq!(all[0], other, "the other's word stands");
    assert_eq!(all.len(), 2);
}

/// What was known is served, and nothing is taken away before the API server says so.
pub(crate) async fn a_controller_starts_while_its_api_server_is_away(
    clusters: &mut Clusters,
    federation: &mut Federation,
) {
    let endpoints = async |federation: &Federation| {
        let told = federation
            .cli(0, &["endpoints", "shop/web", "-o", "json"])
            .await;
        if told.code != 0 {
            return Err(told.stderr);
        }
        let found = told.json()["endpoints"].as_array().cloned();
        Ok(found.unwrap_or_default())
    };
    let status = async |federation: &Federation| federation.cli(0, &["status"]).await.stdout;
    let before = wait::until("an endpoint", SOON, async || {
        match endpoints(federation).await {
            Ok(all) if all.len() == 1 => Ok(all),
            other => Err(other),
        }
    })
    .await;
    clusters.stop_api("west").await;
    let controller = federation.clusters[0].controller.as_mut().unwrap();
    assert_eq!(controller.stop(SOON).await, 0);
    federation.start_controller(0);
    federation
        .ready(federation.addr(0, host::CONTROLLER, ADMIN))
        .await;
    assert_eq!(endpoints(federation).await, Ok(before));
    let told = status(federation).await;
    assert!(
        told.contains("the API server: was not read whole since this controller started"),
        "{told}"
    );
    the_webhook_answers(federation).await;

    clusters.start_api("west").await;
    point_at(clusters, webhook(federation).await).await;
    let scale = ["scale", "deployment", "web", "-n", "shop", "--replicas=2"];
    clusters.kubectl("west", &scale).await.good();
    wait::until("another endpoint", SOON, async || {
        match endpoints(federation).await {
            Ok(all) if all.len() == 2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let told = status(federation).await;
    assert!(!told.contains("was not read whole"), "{told}");
}

/// A controller that knows nothing from before and may not list one kind of rules says so, and serves what else there is.
pub(crate) async fn a_kind_that_may_not_be_listed_holds_up_nothing(
    clusters: &Clusters,
    federation: &mut Federation,
) {
    let mut role = get(clusters, &["clusterrole", "tradewind-controller"]).await;
    role["metadata"]["resourceVersion"].take();
    let whole = role.clone();
    let mut lost = 0;
    for rule in role["rules"].as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        let before = resources.len();
        resources.retain(|name| name != "httproutes");
        lost += before - resources.len();
    }
    assert_eq!(lost, 1, "{whole}");
    let put = async |role: &Value| {
        clusters.apply("west", &role.to_string()).await.good();
    };
    put(&role).await;
    let controller = federation.clusters[0].controller.as_mut().unwrap();
    assert_eq!(controller.stop(SOON).await, 0);
    let kept = Path::new(&federation.data_dir(0)).join("kubernetes.objects");
    std::fs::remove_file(kept).unwrap();
    federation.start_controller(0);
    let lacking =
        "kind HTTPRoute.gateway.networking.k8s.io: the API server does not list it: httproutes";
    wait::until("services, and which kind is lacking", SOON, async || {
        let endpoints = ["endpoints", "shop/web", "-o", "json"];
        let endpoints = federation.cli(0, &endpoints).await;
        let told = federation.cli(0, &["status"]).await.stdout;
        let known = endpoints.code == 0
            && endpoints.json()["endpoints"].as_array().map(Vec::len) == Some(1);
        if known && told.contains(lacking) {
            Ok(())
        } else {
            Err((endpoints.stdout, endpoints.stderr, told))
        }
    })
    .await;
    the_check_names_what_is_missing(clusters, federation).await;
    put(&whole).await;
    wait::until("the kind is listed", SOON, async || {
        let told = federation.cli(0, &["status"]).await.stdout;
        // The route there has a backend that is not there, which is a problem of its own.
        let known = told.contains("HTTPRoute shop/split: ");
        if known && !told.contains("the API server does not list it") {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let told = federation.json(0, &["check"]).await;
    assert_eq!(check(&told, "kinds-listed")["result"], "ok", "{told}");
}

/// By the API server's word on the account, and by the controller's on what it was refused.
async fn the_check_names_what_is_missing(clusters: &Clusters, federation: &Federation) {
    let account = "system:serviceaccount:tradewind-system:tradewind-controller";
    let found = tradewind(clusters, &["check", "-o", "json"]).await;
    assert_eq!(found.code, 1, "{}", found.stderr);
    let found = found.json();
    let rights = check(&found, "account-rights");
    assert_eq!(rights["result"], "error", "{rights}");
    let group = "httproutes.gateway.networking.k8s.io";
    assert_eq!(
        rights["message"],
        format!("{account} may not get {group}, list {group}, watch {group}")
    );
    let told = federation.cli(0, &["check", "-o", "json"]).await;
    assert_eq!(told.code, 1, "{}", told.stderr);
    let told = told.json();
    let listed = check(&told, "kinds-listed");
    assert_eq!(listed["result"], "error", "{listed}");
    let message = listed["message"].as_str().unwrap();
    for named in [
        "HTTPRoute.gateway.networking.k8s.io: ",
        account,
        "cannot list resource",
    ] {
        assert!(message.contains(named), "{message}");
    }
}

/// Every watch and every write so far. (An API server that starts refuses everybody for a moment: it does not know the roles yet.)
pub(crate) fn every_request_was_allowed(federation: &Federation) {
    let log = federation.clusters[0].controller.as_ref().unwrap().log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("forbidden"))
        .collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

/// Without a controller no pod of the namespace is made.
pub(crate) async fn it_fails_closed(clusters: &Clusters, federation: &mut Federation) {
    let controller = federation.clusters[0].controller.as_mut().unwrap();
    assert_eq!(controller.stop(SOON).await, 0);
    let away = clusters.apply("west", &pod("late", "")).await;
    assert!(
        away.stderr.contains("failed calling webhook"),
        "{}",
        away.stderr
    );
}

/// As the API server's own authoriser says of the controller's account.
pub(crate) async fn the_controller_may_what_it_needs_and_no_more(clusters: &Clusters) {
    let may = async |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let who = "--as=system:serviceaccount:tradewind-system:tradewind-controller";
        let words = [&["auth", "can-i", who], &words[..]].concat();
        clusters.kubectl("west", &words).await.stdout.trim() == "yes"
    };
    for allowed in [
        "watch services -A",
        "list pods -A",
        "create endpointslices -n shop",
        "patch serviceexports.multicluster.x-k8s.io --subresource=status -n shop",
        "create serviceimports.multicluster.x-k8s.io -n shop",
        "create tokenreviews.authentication.k8s.io",
        "patch mutatingwebhookconfigurations/tradewind-injection",
        "update configmaps/tradewind-root -n shop",
        "watch serviceexports.multicluster.x-k8s.io -A",
        "watch clusterproperties.about.k8s.io",
        "create serviceexports.multicluster.x-k8s.io -n shop",
        "delete serviceexports.multicluster.x-k8s.io -n shop",
    ] {
        assert!(may(allowed).await, "{allowed}");
    }
    for refused in [
        "get secrets -n shop",
        "watch nodes",
        "get secrets -n tradewind-system",
        "create pods -n shop",
        "delete pods -n shop",
        "update serviceexports.multicluster.x-k8s.io -n shop",
        "patch mutatingwebhookconfigurations/other",
        "create mutatingwebhookconfigurations",
        "update configmaps/other -n shop",
        "list configmaps -n shop",
        "update clusterproperties.about.k8s.io/other",
        "impersonate users",
        "create serviceaccounts --subresource=token -n shop",
    ] {
        assert!(!may(refused).await, "{refused}");
    }
    let edit = [
        "auth",
        "can-i",
        "create",
        "serviceexports.multicluster.x-k8s.io",
        "-n",
        "default",
        "--as=ann",
    ];
    assert_eq!(clusters.kubectl("west", &edit).await.stdout.trim(), "no");
    let bind = [
        "create",
        "rolebinding",
        "ann",
        "-n",
        "default",
        "--clusterrole=edit",
        "--user=ann",
    ];
    clusters.kubectl("west", &bind).await.good();
    wait::until("aggregated rights", SOON, async || {
        let told = clusters.kubectl("west", &edit).await.stdout;
        if told.trim() == "yes" {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let import = [
        "auth",
        "can-i",
        "create",
        "serviceimports.multicluster.x-k8s.io",
        "-n",
        "default",
        "--as=ann",
    ];
    assert_eq!(clusters.kubectl("west", &import).await.stdout.trim(), "no");
}

/// There is no network of services here: the API server is told where the webhook is.
pub(crate) async fn point_at(clusters: &Clusters, address: SocketAddr) {
    let found = get(
        clusters,
        &["mutatingwebhookconfiguration", "tradewind-injection"],
    )
    .await;
    let count = found["webhooks"].as_array().unwrap().len();
    let mut patch = Vec::new();
    for at in 0..count {
        let path = format!("/webhooks/{at}/clientConfig");
        if found["webhooks"][at]["clientConfig"]["service"].is_object() {
            patch.push(json!({ "op": "remove", "path": format!("{path}/service") }));
        }
        let url = format!("https://localhost:{}/inject", address.port());
        patch.push(json!({ "op": "add", "path": format!("{path}/url"), "value": url }));
    }
    let patch = json!(patch).to_string();
    let words = [
        "patch",
        "mutatingwebhookconfiguration",
        "tradewind-injection",
        "--type=json",
        "-p",
        &patch,
    ];
    clusters.kubectl("west", &words).await.good();
}
