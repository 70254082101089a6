//! Local rate limits of one cluster, which callers of the other meet.

use super::*;

#[tokio::test]
async fn callers_of_another_cluster_meet_a_workloads_limit_and_take_it_for_no_failure() {
    let (federation, manifests) = federation(EAST).await;
    let mut workloads = Vec::new();
    for n in [1, 2] {
        let more = ["--label", "app=payments"];
        workloads.push(federation.workload_with(EAST, n, SERVICE, &more).await);
    }
    federation.export(EAST, "shop/payments").await;
    federation.sees(WEST, "shop/payments", 2).await;
    let (_caller, address) = federation.caller(WEST, 0, SERVICE).await;
    until_answered(address, "the service", |a| a.status == 200).await;
    write(
        &manifests,
        r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: istio-system}
spec:
  workloadSelector: {labels: {app: payments}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
            token_bucket: {max_tokens: 5, tokens_per_fill: 5, fill_interval: 3600s}
            filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}
            filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}
            response_headers_to_add: [{append: false, header: {key: x-local-rate-limit, value: 'true'}}]
"#,
    );
    for workload in &workloads {
        until("the limit to hold", USUAL, || async {
            let page = client::get(workload.admin, "/debug/state").await?.text();
            let holds = page.contains("istio-system/limit");
            if holds { Ok(()) } else { Err(page) }
        })
        .await;
    }
    is_shown(&federation).await;
    // Five of each, whoever is asked how often, and then none.
    let (mut passed, mut refused) = (0, 0);
    for _ in 0..400 {
        let answer = ask(address, &[("host", "payments.shop")]).await;
        if answer.status == 200 {
            passed += 1;
            continue;
        }
        refused += 1;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (429, "local_rate_limited")
        );
        for field in ["x-envoy-ratelimited", "x-local-rate-limit"] {
            assert_eq!(answer.headers[field], "true");
        }
        assert!(!answer.headers.contains_key("tradewind-error"));
    }
    assert_eq!(passed, 10, "{refused} refused");
    // Nor is it one for a request whose body nobody reads. It fits into what lies on the way: of an HTTP/1 client that still sends when it is
    // answered nobody can say whether it reads the answer or finds its connection closed.
    let body = "x".repeat(16 << 10);
    let answer = client::ask(address, ("POST", "/"), &[("host", "payments.shop")], &body).await;
    refused += 1;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (429, "local_rate_limited")
    );
    let mut counted = 0.0;
    for workload in &workloads {
        let labels = [SERVICE, "refused"];
        let all = metrics::total(workload.admin, "tradewind_inbound_rate_limited", &labels);
        counted += all.await.unwrap();
        let flagged = metrics::total(workload.admin, "istio_requests", &["\"RL\"", "\"429\""]);
        assert!(flagged.await.unwrap() > 0.0);
    }
    assert_eq!(counted, f64::from(refused));
    // Nobody was tried again, and nobody is avoided.
    let admin = federation.addr(WEST, host::CALLERS, ADMIN);
    for name in ["tradewind_outbound_retries", "tradewind_outbound_ejections"] {
        let all = metrics::total(admin, name, &["shop/payments:80"]).await;
        assert_eq!(all.unwrap(), 0.0, "{name}");
    }
    fs::remove_file(manifests.join("policy.yaml")).unwrap();
    until_answered(address, "the limit to be over", |a| a.status == 200).await;
}

/// Whoever asks the workloads' own cluster is told of the limit.
async fn is_shown(federation: &Federation) {
    let asks: [&[&str]; 2] = [&["explain", "--to", SERVICE], &["routes", "shop/payments"]];
    for args in asks {
        let said = federation.cli(EAST, args).await.good().stdout;
        for words in [
            "EnvoyFilter istio-system/limit, port 80, at ",
            "5 requests at once, 5 more every 3600 s of all callers together",
            "the others are answered 429, with x-local-rate-limit: \"true\" instead of others",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }
    let json = ["explain", "--to", SERVICE, "-o", "json"];
    let json = federation.cli(EAST, &json).await.good().json();
    let at = json.pointer("/limits/0/endpoints").unwrap();
    assert_eq!(at.as_array().unwrap().len(), 2);
    let all = federation.cli(EAST, &["routes"]).await.good().stdout;
    assert!(all.contains("EnvoyFilter istio-system/limit"), "{all}");
}
