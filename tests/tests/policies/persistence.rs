//! Sessions that persist (`sessionPersistence`), with endpoints of another cluster.

use super::*;

/// A route's rule that keeps clients with endpoints, for payments and its canary by these weights. Each new client may meet any endpoint.
fn kept(weights: [u32; 2], persistence: &str) -> String {
    let [payments, canary] = weights;
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: payments, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: payments}}]
  rules:
  - backendRefs:
    - {{name: payments, port: 80, weight: {payments}}}
    - {{name: canary, port: 80, weight: {canary}}}
    sessionPersistence: {persistence}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: payments, namespace: shop}}
spec: {{host: payments, trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}}}
"
    )
}

/// Calls with a token: who answers, and the token that the client has then.
async fn in_session(address: SocketAddr, token: &str) -> (String, String) {
    let fields = [("host", "payments.shop"), ("cookie", token)];
    let answer = ask(address, &fields).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.headers.get("set-cookie");
    let told = told.map(|t| t.to_str().unwrap().split(';').next().unwrap().to_owned());
    (answer.text(), told.unwrap_or_else(|| token.to_owned()))
}

#[tokio::test]
async fn clients_stay_with_another_clusters_endpoint_whatever_the_weights_until_it_is_gone() {
    let (federation, manifests) = federation(WEST).await;
    let mut payments = Vec::new();
    for n in [1, 2] {
        payments.push(federation.workload(EAST, n, SERVICE).await);
    }
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    let _canary = federation.workload(WEST, 3, "shop/canary:80").await;
    federation.sees(WEST, "shop/canary", 1).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    let lasting = "{absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}";
    write(&manifests, &kept([1, 0], lasting));
    until_answered(address, "a session to begin", |a| {
        let told = a.headers.get("set-cookie").and_then(|t| t.to_str().ok());
        told.is_some_and(|t| t.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict"))
    })
    .await;
    let mut sessions = Vec::new();
    for _ in 0..30 {
        sessions.push(in_session(address, "").await);
    }
    let homes: BTreeSet<_> = sessions.iter().map(|(home, _)| home.clone()).collect();
    assert_eq!(homes.len(), 2, "sessions spread: {homes:?}");
    assert!(homes.iter().all(|h| h.contains("from east")), "{homes:?}");

    // New clients go to the canary; those of before stay where they are.
    write(&manifests, &kept([0, 1], lasting));
    until_answered(address, "the canary", |a| a.text().contains("canary")).await;
    for (home, token) in &sessions {
        let found = in_session(address, token).await;
        assert_eq!(found, (home.clone(), token.clone()));
    }
    let explain = async |more: &[&str]| {
        let args = [&["explain", "--to", SERVICE, "--caller", "shop"], more].concat();
        federation.cli(WEST, &args).await.good().stdout
    };
    let said = explain(&[]).await;
    assert!(said.contains(", begins a session\n"), "{said}");
    assert!(said.contains("100.0 % to shop/canary:80"), "{said}");
    let field = format!("cookie: {}", sessions[0].1);
    let said = explain(&["--header", &field]).await;
    assert!(said.contains("its session is with endpoint"), "{said}");
    assert!(said.contains("100.0 % to shop/payments:80"), "{said}");

    // An endpoint dies: its clients are answered all the same, begin anew once its end is known here, and stay; nobody else moves.
    payments[0].kill().await;
    for (home, token) in &sessions {
        if !home.contains("east/1") {
            let found = in_session(address, token).await;
            assert_eq!(found, (home.clone(), token.clone()));
            continue;
        }
        let (by, new) = until("the client to begin anew", USUAL, || async {
            let (by, new) = in_session(address, token).await;
            assert!(!by.contains("east/1"), "{by}");
            // Its gateway may have had another endpoint answer for it.
            if new == *token {
                Err(by)
            } else {
                Ok((by, new))
            }
        })
        .await;
        assert!(by.contains("canary"), "{by}");
        assert_eq!(in_session(address, &new).await, (by, new));
    }
    let said = explain(&["--header", "cookie: other=1"]).await;
    assert!(said.contains("begins a session"), "{said}");

    // A client that is not ours keeps the cookie, and one that cannot be kept is told of.
    if Path::new("/usr/bin/curl").exists() {
        write(&manifests, &kept([1, 1], lasting));
        until_answered(address, "both", |a| a.text().contains("payments")).await;
        let jar = federation.dir().join("cookies");
        let mut met = BTreeSet::new();
        for _ in 0..10 {
            let (jar, url) = (jar.to_str().unwrap(), format!("http://{address}/"));
            let mut curl = tokio::process::Command::new("/usr/bin/curl");
            curl.args(["-sS", "-b", jar, "-c", jar, &url]);
            let asked = curl.output().await.unwrap();
            assert!(asked.status.success(), "{asked:?}");
            met.insert(String::from_utf8(asked.stdout).unwrap());
        }
        assert_eq!(met.len(), 1, "{met:?}");
    }
    write(
        &manifests,
        &kept([1, 0], "{cookieConfig: {lifetimeType: Permanent}}"),
    );
    until("the finding", USUAL, || async {
        let status = federation.cli(WEST, &["status"]).await.stdout;
        let told = status.contains("TW0204") && status.contains("needs an absoluteTimeout");
        if told { Ok(()) } else { Err(status) }
    })
    .await;
}
