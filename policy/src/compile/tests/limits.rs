//! What EnvoyFilters come to: as Istio's documentation has them, value by value, and what is said of the others.

use tradewind_api::{
    limit::{Answer, HeaderEdit, HeaderEditHow, LocalLimit, LocalLimits, Place, TokenBucket},
    traffic::Labels,
};

use super::*;

const TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const BUCKET: &str = "token_bucket: {max_tokens: 10, tokens_per_fill: 10, fill_interval: 60s}";
const ON: &str =
    "filter_enabled: {runtime_key: a, default_value: {numerator: 100, denominator: HUNDRED}}";
const ENFORCED: &str =
    "filter_enforced: {runtime_key: b, default_value: {numerator: 100, denominator: HUNDRED}}";

/// As Istio's task for rate limits shows it, but for its names.
const DOCUMENTED: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit, namespace: istio-system}
spec:
  workloadSelector:
    labels:
      app: cart
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          filter:
            name: "envoy.filters.network.http_connection_manager"
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value:
            stat_prefix: http_local_rate_limiter
  - applyTo: HTTP_ROUTE
    match:
      context: SIDECAR_INBOUND
      routeConfiguration:
        vhost:
          name: "inbound|http|80"
          route:
            action: ANY
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          envoy.filters.http.local_ratelimit:
            "@type": type.googleapis.com/xds.type.v3.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value:
              stat_prefix: http_local_rate_limiter
              token_bucket:
                max_tokens: 10
                tokens_per_fill: 5
                fill_interval: 60s
              filter_enabled:
                runtime_key: local_rate_limit_enabled
                default_value:
                  numerator: 100
                  denominator: HUNDRED
              filter_enforced:
                runtime_key: local_rate_limit_enforced
                default_value:
                  numerator: 100
                  denominator: HUNDRED
              response_headers_to_add:
              - append: false
                header:
                  key: x-local-rate-limit
                  value: 'true'
"#;

/// An object of `shop` with these patches.
fn object(patches: &[String]) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: cart, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: cart}}}}
  configPatches: [{}]
",
        patches.join(", ")
    )
}

/// A patch that puts the filter with this config before the application.
fn filter(config: &str) -> String {
    patch(
        "context: SIDECAR_INBOUND",
        &format!(
            "operation: INSERT_BEFORE, value: {{name: envoy.filters.http.local_ratelimit, typed_config: {{'@type': {TYPE}, {config}}}}}"
        ),
    )
}

fn patch(conditions: &str, patch: &str) -> String {
    format!("{{applyTo: HTTP_FILTER, match: {{{conditions}}}, patch: {{{patch}}}}}")
}

/// The only limit of a config, if it comes to one, and what is said of it, by paths inside of it.
fn read(config: &str) -> (Option<LocalLimit>, Vec<(Code, String)>) {
    let policy = compiled(&object(&[filter(config)]));
    let said = found(&policy).into_iter().map(|(code, path)| {
        let inside = path.strip_prefix("spec.configPatches[0].patch.value.typed_config.");
        (code, inside.unwrap_or(path).to_owned())
    });
    let limits = policy.limits.values().next();
    (limits.map(|l| l.limits[0].clone()), said.collect())
}

/// Of one that there is nothing to say of.
fn good(config: &str) -> LocalLimit {
    let (limit, said) = read(config);
    assert_eq!(said, [], "{config}");
    limit.unwrap()
}

#[test]
fn what_istio_documents_is_read_without_a_word() {
    let policy = compiled(DOCUMENTED);
    assert_eq!(found(&policy), []);
    let filter = LocalLimit {
        place: Place::Filter { port: None },
        bucket: None,
        per_connection: false,
        enabled: 0,
        enforced: 0,
        answer: Answer::default(),
        passed_headers: Vec::new(),
        tells: false,
    };
    let header = HeaderEdit {
        name: "x-local-rate-limit".into(),
        value: "true".into(),
        how: HeaderEditHow::Set,
    };
    let route = LocalLimit {
        place: Place::Route { port: Some(80) },
        bucket: Some(TokenBucket {
            max_tokens: 10,
            tokens_per_fill: 5,
            fill_interval_ms: 60_000,
        }),
        enabled: 1_000_000,
        enforced: 1_000_000,
        answer: Answer {
            headers: vec![header],
            ..Answer::default()
        },
        ..filter.clone()
    };
    let expected = LocalLimits {
        namespace: None,
        labels: [("app".to_owned(), "cart".to_owned())].into(),
        limits: vec![filter, route],
    };
    let name = "istio-system/limit".parse().unwrap();
    assert_eq!(*policy.limits[&name], expected);
    // Whose JSON it is: of the messages as they stand, or as protobuf has it.
    let in_json = DOCUMENTED
        .replace("typed_config", "typedConfig")
        .replace("typed_per_filter_config", "typedPerFilterConfig")
        .replace("type_url", "typeUrl")
        .replace("token_bucket", "tokenBucket")
        .replace("max_tokens", "maxTokens")
        .replace("tokens_per_fill", "tokensPerFill")
        .replace("fill_interval", "fillInterval")
        .replace("filter_en", "filterEn")
        .replace("default_value", "defaultValue")
        .replace("runtime_key", "runtimeKey")
        .replace("response_headers_to_add", "responseHeadersToAdd")
        .replace("stat_prefix", "statPrefix");
    let policy = compiled(&in_json);
    assert_eq!(found(&policy), []);
    assert_eq!(*policy.limits[&name], expected);
}

#[test]
fn values_come_to_what_envoy_makes_of_them() {
    let with = |more: &str| good(&format!("{BUCKET}, {ON}, {ENFORCED}, {more}"));
    let plain = with("stat_prefix: x");
    assert_eq!((plain.per_connection, plain.tells), (false, false));
    assert!(with("local_rate_limit_per_downstream_connection: true").per_connection);
    assert!(with("enable_x_ratelimit_headers: DRAFT_VERSION_03").tells);
    assert!(!with("enable_x_ratelimit_headers: 'OFF'").tells);
    assert!(
        with("rate_limited_as_resource_exhausted: true")
            .answer
            .resource_exhausted
    );
    for (code, status) in [("503", 503), ("ServiceUnavailable", 503), ("429", 429)] {
        assert_eq!(
            with(&format!("status: {{code: {code}}}")).answer.status,
            status
        );
    }
    for (fraction, share) in [
        ("numerator: 50", 500_000),
        ("numerator: 0", 0),
        ("numerator: 5, denominator: TEN_THOUSAND", 500),
        ("numerator: 5, denominator: MILLION", 5),
        ("numerator: 4294967295, denominator: HUNDRED", 1_000_000),
    ] {
        let enforced = format!("filter_enforced: {{default_value: {{{fraction}}}}}");
        assert_eq!(
            good(&format!("{BUCKET}, {ON}, {enforced}")).enforced,
            share,
            "{fraction}"
        );
    }
    let once = "token_bucket: {max_tokens: 3, fill_interval: 0.05s}";
    let bucket = good(&format!("{once}, {ON}, {ENFORCED}")).bucket.unwrap();
    assert_eq!((bucket.tokens_per_fill, bucket.fill_interval_ms), (1, 50));
    for (option, how) in [
        ("append: true", HeaderEditHow::Append),
        ("append: false", HeaderEditHow::Set),
        (
            "append_action: APPEND_IF_EXISTS_OR_ADD",
            HeaderEditHow::Append,
        ),
        ("append_action: ADD_IF_ABSENT", HeaderEditHow::IfAbsent),
        (
            "append_action: OVERWRITE_IF_EXISTS_OR_ADD",
            HeaderEditHow::Set,
        ),
        (
            "append_action: OVERWRITE_IF_EXISTS",
            HeaderEditHow::IfPresent,
        ),
    ] {
        let header = format!("[{{header: {{key: X-A, value: '5%%'}}, {option}}}]");
        let edit = |name: &str| HeaderEdit {
            name: name.into(),
            value: "5%".into(),
            how,
        };
        let answer = with(&format!("response_headers_to_add: {header}")).answer;
        assert_eq!(answer.headers, [edit("x-a")], "{option}");
        let passed = with(&format!(
            "request_headers_to_add_when_not_enforced: {header}"
        ));
        assert_eq!(passed.passed_headers, [edit("x-a")], "{option}");
    }
}

/// What is wrong, in a bucket, in what a header field is added by, or elsewhere; whether there is a limit all the same; what is told, and of which field.
const WRONG: &str = r#"
bucket max_tokens: 0, fill_interval: 1s                    => no TW0204 token_bucket.max_tokens
bucket fill_interval: 1s                                   => no TW0204 token_bucket.max_tokens
bucket max_tokens: 4294967296, fill_interval: 1s           => no TW0204 token_bucket.max_tokens
bucket max_tokens: 1, tokens_per_fill: 0, fill_interval: 1s => no TW0204 token_bucket.tokens_per_fill
bucket max_tokens: 1, fill_interval: 49ms                  => no TW0204 token_bucket.fill_interval
bucket max_tokens: 1, fill_interval: soon                  => no TW0204 token_bucket.fill_interval
bucket max_tokens: 1                                       => no TW0204 token_bucket.fill_interval
more status: {code: 200}                                   => yes TW0228 status.code
more status: {code: 499}                                   => yes TW0204 status.code
more status: {code: Teapot}                                => yes TW0204 status.code
more status: {}                                            => yes TW0204 status.code
more enable_x_ratelimit_headers: DRAFT_VERSION_04          => yes TW0204 enable_x_ratelimit_headers
more enable_x_ratelimit_headers: false                     => yes TW0204 enable_x_ratelimit_headers
more no_such: 1                                            => yes TW0202 no_such
more value: {}                                             => yes TW0202 value
more descriptors: [{}]                                     => yes TW0203 descriptors
header header: {key: '', value: b}                         => yes TW0204 response_headers_to_add[0].header
header header: {key: a, value: "b\r"}                      => yes TW0204 response_headers_to_add[0].header
header header: {key: a, value: '%REQ(x)%'}                 => yes TW0203 response_headers_to_add[0].header.value
header header: {key: a}                                    => yes TW0228 response_headers_to_add[0].header.value
header header: {key: a, value: b}, append_action: ADD      => yes TW0204 response_headers_to_add[0].append_action
header header: {key: a, value: b}, append: true, append_action: ADD_IF_ABSENT => yes TW0204 response_headers_to_add[0].append_action
"#;

#[test]
fn what_envoy_would_refuse_or_cannot_act_is_told() {
    for line in WRONG.lines().filter(|l| !l.is_empty()) {
        let (wrong, told) = line.split_once("=> ").unwrap();
        let told: Vec<_> = told.split(' ').collect();
        let config = match wrong.split_once(' ').unwrap() {
            ("bucket", text) => format!("token_bucket: {{{text}}}, {ON}, {ENFORCED}"),
            ("header", text) => {
                format!("{BUCKET}, {ON}, {ENFORCED}, response_headers_to_add: [{{{text}}}]")
            }
            (_, text) => format!("{BUCKET}, {ON}, {ENFORCED}, {text}"),
        };
        let (limit, said) = read(&config);
        let said: Vec<_> = said.iter().map(|(c, p)| (c.as_str(), p.as_str())).collect();
        assert_eq!(said, [(told[1], told[2])], "{line}");
        assert_eq!(limit.is_some(), told[0] == "yes", "{line}");
        if wrong.starts_with("header") {
            assert!(limit.unwrap().answer.headers.is_empty(), "{line}");
        }
    }
}

#[test]
fn shares_that_are_none_are_told_and_hold_for_nothing() {
    let invalid = Code::InvalidValue;
    let enforced = |text: &str| format!("{BUCKET}, {ON}, filter_enforced: {{{text}}}");
    for (config, code, path) in [
        (
            format!("{BUCKET}, {ENFORCED}"),
            Code::IdleSetting,
            "filter_enabled",
        ),
        (
            format!("{BUCKET}, {ON}"),
            Code::IdleSetting,
            "filter_enforced",
        ),
        (enforced(""), invalid, "filter_enforced.default_value"),
        (
            enforced("default_value: {numerator: 1, denominator: TEN}"),
            invalid,
            "filter_enforced.default_value.denominator",
        ),
        (
            enforced("default_value: {numerator: -1}"),
            invalid,
            "filter_enforced.default_value.numerator",
        ),
    ] {
        let (limit, said) = read(&config);
        assert_eq!(said, [(code, path.to_owned())], "{config}");
        let limit = limit.unwrap();
        assert_eq!(limit.enabled.min(limit.enforced), 0, "{config}");
    }
}

#[test]
fn what_is_too_much_or_is_not_understood_as_a_whole_is_left_out() {
    let more = |text: &str| format!("{BUCKET}, {ON}, {ENFORCED}, {text}");
    let many = ["{header: {key: a, value: b}}"; 11].join(", ");
    let (limit, said) = read(&more(&format!("response_headers_to_add: [{many}]")));
    assert_eq!(limit.unwrap().answer.headers.len(), 10);
    let path = "response_headers_to_add[10]".to_owned();
    assert_eq!(said, [(Code::InvalidValue, path)]);
    let without_default = "descriptors: [{}], always_consume_default_token_bucket: false";
    let (limit, said) = read(&more(without_default));
    assert!(limit.is_none() && said.len() == 2, "{said:?}");
    let (limit, said) = read(&format!("{BUCKET}, tokenBucket: 5"));
    assert!(limit.is_none() && said[0].0 == Code::Malformed, "{said:?}");
}

#[test]
fn patches_that_are_none_of_limits_are_reported_as_a_whole_and_conditions_that_are_not_met_leave_them_out()
 {
    let config = format!("{{'@type': {TYPE}, {BUCKET}, {ON}, {ENFORCED}}}");
    let value =
        format!("value: {{name: envoy.filters.http.local_ratelimit, typed_config: {config}}}");
    let put = format!("operation: INSERT_BEFORE, {value}");
    let of = |conditions: &str| patch(conditions, &put);
    let route = |conditions: &str, value: &str| {
        let text = patch(conditions, &format!("operation: MERGE, value: {{{value}}}"));
        text.replace("HTTP_FILTER", "HTTP_ROUTE")
    };
    let inbound = "context: SIDECAR_INBOUND";
    let for_route =
        format!("typed_per_filter_config: {{envoy.filters.http.local_ratelimit: {config}}}");
    let chain = |text: &str| of(&format!("{inbound}, listener: {{filterChain: {{{text}}}}}"));
    let unsupported = Code::UnsupportedField;
    let cases = [
        ("{applyTo: CLUSTER, patch: {operation: ADD, value: {name: a}}}".to_owned(), unsupported, ""),
        ("{applyTo: HTTP_FILTER, patch: {operation: INSERT_BEFORE, value: {name: envoy.filters.http.lua, typed_config: {'@type': x, inlineCode: a}}}}".to_owned(), unsupported, ""),
        (of("context: SIDECAR_OUTBOUND"), unsupported, "match.context"),
        (of("context: GATEWAY"), unsupported, "match.context"),
        (of(&format!("{inbound}, proxy: {{proxyVersion: '^1.2'}}")), unsupported, "match.proxy"),
        (of(&format!("{inbound}, cluster: {{name: a}}")), unsupported, "match.cluster"),
        (of(&format!("{inbound}, some: thing")), Code::UnknownField, "match.some"),
        (of(&format!("{inbound}, listener: {{name: other}}")), unsupported, "match.listener.name"),
        (of(&format!("{inbound}, listener: {{portNumber: 70000}}")), Code::InvalidValue, "match.listener.portNumber"),
        (of(&format!("{inbound}, routeConfiguration: {{}}")), Code::InvalidValue, "match.routeConfiguration"),
        (chain("sni: a"), unsupported, "match.listener.filterChain.sni"),
        (chain("filter: {name: envoy.filters.network.tcp_proxy}"), unsupported, "match.listener.filterChain.filter.name"),
        (chain("filter: {subFilter: {name: envoy.filters.http.jwt_authn}}"), unsupported, "match.listener.filterChain.filter.subFilter.name"),
        (patch(inbound, &format!("operation: INSERT_AFTER, {value}")), unsupported, "patch.operation"),
        (patch(inbound, &put.replace("name: envoy.filters.http.local_ratelimit", "name: other")), Code::InvalidValue, "patch.value.name"),
        (patch(inbound, &put.replace(&config, "{'@type': a.b.C}")), Code::InvalidValue, "patch.value.typed_config.@type"),
        (patch(inbound, "operation: INSERT_BEFORE, value: {name: envoy.filters.http.local_ratelimit}"), Code::InvalidValue, "patch.value.typed_config"),
        (patch(inbound, &put.replace("typed_config", "disabled: true, typed_config")), unsupported, "patch.value.disabled"),
        (route(&format!("{inbound}, routeConfiguration: {{vhost: {{name: 'outbound|http|80'}}}}"), &for_route), Code::InvalidValue, "match.routeConfiguration.vhost.name"),
        (route(&format!("{inbound}, routeConfiguration: {{vhost: {{name: 'inbound|http|0'}}}}"), &for_route), Code::InvalidValue, "match.routeConfiguration.vhost.name"),
        (route(&format!("{inbound}, routeConfiguration: {{vhost: {{route: {{action: REDIRECT}}}}}}"), &for_route), unsupported, "match.routeConfiguration.vhost.route.action"),
        (route(&format!("{inbound}, listener: {{}}"), &for_route), Code::InvalidValue, "match.listener"),
        (route(inbound, &for_route.replace("filter_enabled", "a").replace(BUCKET, "stat_prefix: a")), Code::InvalidValue, "patch.value.typed_per_filter_config[envoy.filters.http.local_ratelimit].token_bucket"),
    ];
    for (patch, code, path) in cases {
        let policy = compiled(&object(std::slice::from_ref(&patch)));
        let at = format!(
            "spec.configPatches[0]{}{path}",
            if path.is_empty() { "" } else { "." }
        );
        assert!(
            found(&policy).contains(&(code, &at)),
            "{patch}: {:?}",
            policy.findings
        );
        assert!(policy.limits.is_empty(), "{patch}");
    }
    // These hold, and what of them does not is told.
    let any = "spec.configPatches[0].match.context";
    for (patch, code, path) in [
        (of("context: ANY"), unsupported, any),
        (of(""), unsupported, any),
        (
            patch(
                inbound,
                &put.replace("typed_config", "typed_per_filter_config: {}, typed_config"),
            ),
            Code::UnknownField,
            "spec.configPatches[0].patch.value.typed_per_filter_config",
        ),
    ] {
        let policy = compiled(&object(std::slice::from_ref(&patch)));
        assert_eq!(found(&policy), [(code, path)], "{patch}");
        assert_eq!(policy.limits.len(), 1, "{patch}");
    }
    for quiet in [
        of(&format!(
            "{inbound}, listener: {{name: virtualInbound, portNumber: 80, filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: envoy.filters.http.router}}}}}}}}"
        )),
        patch(inbound, &put.replace("INSERT_BEFORE", "INSERT_FIRST")),
    ] {
        let policy = compiled(&object(std::slice::from_ref(&quiet)));
        assert_eq!(found(&policy), [], "{quiet}");
        assert_eq!(policy.limits.len(), 1, "{quiet}");
    }
}

#[test]
fn a_route_without_a_filter_before_its_workloads_is_told() {
    let (filter, second) = DOCUMENTED.split_once("  - applyTo: HTTP_ROUTE").unwrap();
    let (head, _) = filter.split_once("  - applyTo: HTTP_FILTER").unwrap();
    let route = format!("{head}  - applyTo: HTTP_ROUTE{second}");
    let idle = [(Code::IdleSetting, "spec.configPatches")];
    assert_eq!(found(&compiled(&route)), idle);
    let of = |filter: &str| compiled(&format!("{route}\n---\n{filter}"));
    let other = filter.replace("name: limit", "name: other");
    assert_eq!(found(&of(&other)), []);
    // For workloads that may have both labels; not for others.
    assert_eq!(found(&of(&other.replace("app: cart", "tier: back"))), []);
    assert_eq!(found(&of(&other.replace("app: cart", "app: web"))), idle);
    assert_eq!(found(&of(&other.replace("istio-system", "shop"))), []);
}

#[test]
fn a_port_that_no_service_of_its_workloads_has_is_told() {
    let at = "spec.configPatches[1].match.routeConfiguration.vhost.name";
    let of_port = |port: &str| DOCUMENTED.replace("inbound|http|80", port);
    let elsewhere = of_port("inbound|http|82");
    assert_eq!(found(&compiled(&elsewhere)), [(Code::IdleSetting, at)]);
    // One of another namespace is none of theirs.
    let other = of_port("inbound|http|81");
    assert_eq!(found(&compiled(&other)), []);
    let of_front = other.replace("istio-system", "front");
    assert_eq!(found(&compiled(&of_front)), [(Code::IdleSetting, at)]);
    let nothing_known = compile(&objects(&elsewhere), &World::default());
    assert_eq!(found(&nothing_known), []);
}

#[test]
fn a_selector_that_nobody_meets_is_told_where_all_workloads_are_known() {
    let told = |yaml: &str, world: &World| {
        let policy = compile(&objects(yaml), world);
        found(&policy)
            .into_iter()
            .map(|(c, _)| c)
            .collect::<Vec<_>>()
    };
    let mut world = world();
    assert_eq!(told(DOCUMENTED, &world), [], "nothing is known of labels");
    let all: Vec<_> = world.services.keys().cloned().collect();
    world.labels = all.iter().map(|s| (s.clone(), BTreeSet::new())).collect();
    assert_eq!(told(DOCUMENTED, &world), [Code::EmptySelector]);
    let cart: Labels = [("app".to_owned(), "cart".to_owned())].into();
    let front = "front/web".parse().unwrap();
    world.labels.insert(front, [cart].into());
    assert_eq!(told(DOCUMENTED, &world), []);
    let of_shop = DOCUMENTED.replace("istio-system", "shop");
    assert_eq!(told(&of_shop, &world), [Code::EmptySelector]);
    let of_front = DOCUMENTED.replace("istio-system", "front");
    assert_eq!(told(&of_front, &world), []);
}

#[test]
fn an_object_whose_condition_is_not_understood_limits_nobody() {
    for (from, to, code) in [
        ("app: cart", "'a b': cart", Code::InvalidValue),
        (
            "  configPatches:",
            "  targetRefs: [{kind: Gateway}]\n  configPatches:",
            Code::UnsupportedField,
        ),
    ] {
        let policy = compiled(&DOCUMENTED.replacen(from, to, 1));
        assert_eq!(policy.findings[0].code, code, "{:?}", policy.findings);
        assert!(policy.limits.is_empty());
    }
    let many = vec![filter(&format!("{BUCKET}, {ON}, {ENFORCED}")); 65];
    let policy = compiled(&object(&many));
    assert_eq!(policy.limits.values().next().unwrap().limits.len(), 64);
    assert_eq!(
        found(&policy),
        [(Code::InvalidValue, "spec.configPatches[64]")]
    );
}
