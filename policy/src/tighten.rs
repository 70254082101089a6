//! What consumers may change of a producer's rules: they send calls where they like, and may allow less of what the producer bounds,
//! but not more. Pure.
//!
//! A bound holds where all of the producer's rules that send calls on state it; of several the widest. For settings of endpoints
//! it is the producer's for the same port, and the same subset where he has one. Of streams nothing is bounded: their rules say where
//! they go, and that is for consumers to say.

use std::{collections::BTreeMap, sync::Arc};

use tradewind_api::{
    ServiceName,
    route::{Retry, Routes, Rule, StreamRule, Streams, Table, To},
    traffic::{PerPort, Pool, RetryBudget, Settings, TrafficPolicy},
};

/// The rules for calls to a service as they may stand beside its producer's, and what had to be changed of them, a sentence each.
pub fn tighten(service: &ServiceName, own: &Routes, producer: &Routes) -> (Routes, Vec<String>) {
    let mut changed = Vec::new();
    let mut routes = own.clone();
    if let Some(bounds) = producer.of_all.as_deref().map(Bounds::of) {
        let tables = routes.of_callers.values_mut().chain(&mut routes.of_all);
        for table in tables.filter(|t| !is_producers(service, t)) {
            *table = bounds.apply(table, &mut changed);
        }
    }
    if let Some(theirs) = producer.traffic.iter().find(|t| is_for_all(t)) {
        let of_consumers =
            |t: &&mut Arc<TrafficPolicy>| t.origin.object.namespace != service.namespace;
        for policy in routes.traffic.iter_mut().filter(of_consumers) {
            *policy = policy_within(policy, theirs, &mut changed);
        }
    }
    changed.sort();
    changed.dedup();
    (routes, changed)
}

/// What of the rules for a service is its producer's word for everybody: objects of the service's own namespace.
pub fn producers(service: &ServiceName, routes: &Routes) -> Option<Routes> {
    let of_all = routes.of_all.clone().filter(|t| is_producers(service, t));
    let own =
        |t: &&Arc<TrafficPolicy>| is_for_all(t) && t.origin.object.namespace == service.namespace;
    let traffic: Vec<_> = routes.traffic.iter().filter(own).cloned().collect();
    let own = |r: &StreamRule| r.origin.object.namespace == service.namespace;
    let of_all_streams = routes.streams.of_all.clone();
    let streams = Streams {
        of_callers: BTreeMap::new(),
        of_all: of_all_streams.filter(|t| t.rules.iter().all(own)),
    };
    let said = Routes {
        of_callers: BTreeMap::new(),
        of_all,
        traffic,
        streams,
    };
    (said != Routes::default()).then_some(said)
}

/// Whether all rules of a table are of the service's own namespace.
fn is_producers(service: &ServiceName, table: &Table) -> bool {
    let own = |r: &Rule| r.origin.object.namespace == service.namespace;
    table.rules.iter().all(own)
}

/// Whether a policy is for everybody.
fn is_for_all(policy: &TrafficPolicy) -> bool {
    policy.namespace.is_none() && policy.caller_labels.is_empty()
}

/// What all rules of a table state.
struct Bounds {
    whole_ms: Option<u64>,
    try_ms: Option<u64>,
    attempts: Option<u32>,
}

impl Bounds {
    fn of(table: &Table) -> Self {
        let on = || {
            let rules = table.rules.iter().map(|r| &r.then);
            rules.filter(|a| matches!(a.to, To::Backends(_)))
        };
        /// The widest, where everybody states one.
        fn widest<T: Ord>(all: impl Iterator<Item = Option<T>>) -> Option<T> {
            let all: Option<Vec<T>> = all.collect();
            all?.into_iter().max()
        }
        Self {
            whole_ms: widest(on().map(|a| a.timeouts.whole_ms)),
            try_ms: widest(on().map(|a| a.timeouts.try_ms)),
            attempts: widest(on().map(|a| a.retry.as_ref().map(|r| r.attempts))),
        }
    }

    fn apply(&self, table: &Arc<Table>, changed: &mut Vec<String>) -> Arc<Table> {
        let mut within = Table::clone(table);
        for rule in &mut within.rules {
            self.hold(rule, changed);
        }
        if within == **table {
            return Arc::clone(table);
        }
        Arc::new(within)
    }

    fn hold(&self, rule: &mut Rule, changed: &mut Vec<String>) {
        if !matches!(rule.then.to, To::Backends(_)) {
            return;
        }
        let origin = rule.origin.to_string();
        let mut action = rule.then.as_ref().clone();
        let mut say =
            |what: String| changed.push(format!("{origin}: {what}, as its producer says"));
        let timeouts = &mut action.timeouts;
        if let Some(ms) = lower(&mut timeouts.whole_ms, self.whole_ms) {
            say(format!("a request may take {ms} ms"));
        }
        if let Some(ms) = lower(&mut timeouts.try_ms, self.try_ms) {
            say(format!("a try may take {ms} ms"));
        }
        if let (Some(Retry { attempts, .. }), Some(most)) = (&mut action.retry, self.attempts)
            && *attempts > most
        {
            *attempts = most;
            say(format!("a request is tried again {most} times at most"));
        }
        if action != *rule.then {
            rule.then = Arc::new(action);
        }
    }
}

/// Makes a bound no wider than another; what it is then, where that changed it.
fn lower<T: Copy + Ord>(own: &mut Option<T>, theirs: Option<T>) -> Option<T> {
    let theirs = theirs?;
    if own.is_some_and(|own| own <= theirs) {
        return None;
    }
    *own = Some(theirs);
    Some(theirs)
}

fn policy_within(
    own: &Arc<TrafficPolicy>,
    theirs: &TrafficPolicy,
    changed: &mut Vec<String>,
) -> Arc<TrafficPolicy> {
    let mut within = TrafficPolicy::clone(own);
    within.settings = per_port_within(&within.settings, &theirs.settings);
    for (name, subset) in &mut within.subsets {
        let of = theirs
            .subsets
            .get(name)
            .map_or(&theirs.settings, |s| &s.settings);
        subset.settings = per_port_within(&subset.settings, of);
    }
    if within == **own {
        return Arc::clone(own);
    }
    changed.push(format!(
        "{}: allows no more than {} does, as its producer says",
        own.origin, theirs.origin
    ));
    Arc::new(within)
}

fn per_port_within(own: &PerPort, theirs: &PerPort) -> PerPort {
    // A port that only the producer tells apart needs settings of its own here too.
    let ports = own.ports.keys().chain(theirs.ports.keys());
    let bounded = |port: &u16| (*port, settings_within(own.of(*port), theirs.of(*port)));
    PerPort {
        all: settings_within(&own.all, &theirs.all),
        ports: ports.map(bounded).collect(),
    }
}

fn settings_within(own: &Arc<Settings>, theirs: &Settings) -> Arc<Settings> {
    let mut within = Settings::clone(own);
    let Pool {
        connections,
        pending,
        requests,
        retries,
        requests_per_connection: _,
        connect_timeout_ms,
    } = &mut within.pool;
    lower(connections, theirs.pool.connections);
    lower(pending, theirs.pool.pending);
    lower(requests, theirs.pool.requests);
    lower(retries, theirs.pool.retries);
    lower(connect_timeout_ms, theirs.pool.connect_timeout_ms);
    within.outlier = within.outlier.or_else(|| theirs.outlier.clone());
    within.retry_budget = match (within.retry_budget, theirs.retry_budget) {
        (Some(own), Some(theirs)) => Some(RetryBudget {
            share: own.share.min(theirs.share),
            min_concurrency: own.min_concurrency.min(theirs.min_concurrency),
        }),
        (own, theirs) => own.or(theirs),
    };
    if within == **own {
        Arc::clone(own)
    } else {
        Arc::new(within)
    }
}

#[cfg(test)]
mod tests {
    use tradewind_api::{
        Namespace,
        route::{
            Action, Kind, Match, Origin, Otherwise, StreamMatch, StreamOtherwise, StreamTable,
            Timeouts,
        },
        traffic::{Outlier, Subset},
    };

    use super::*;

    fn origin(kind: Kind, object: &str) -> Origin {
        Origin {
            kind,
            object: object.parse().unwrap(),
            rule: "rules[0]".into(),
            cluster: None,
        }
    }

    fn rule(object: &str, whole_ms: Option<u64>, attempts: Option<u32>) -> Rule {
        let mut action = Action::new(To::Backends(Vec::new()));
        action.timeouts = Timeouts {
            whole_ms,
            try_ms: None,
        };
        action.retry = attempts.map(|attempts| Retry {
            attempts,
            ..serde_json::from_str(r#"{"attempts":0,"on":[],"codes":[]}"#).unwrap()
        });
        Rule {
            origin: origin(Kind::HttpRoute, object),
            when: Match::default(),
            then: Arc::new(action),
        }
    }

    fn table(rules: Vec<Rule>) -> Arc<Table> {
        Arc::new(Table {
            rules,
            otherwise: Otherwise::NotFound,
        })
    }

    fn cart() -> ServiceName {
        "shop/cart".parse().unwrap()
    }

    fn front() -> Namespace {
        Namespace::new("front").unwrap()
    }

    fn consumer(rules: Vec<Rule>) -> Routes {
        Routes {
            of_callers: [(front(), table(rules))].into(),
            ..Routes::default()
        }
    }

    fn producer(rules: Vec<Rule>) -> Routes {
        Routes {
            of_all: Some(table(rules)),
            ..Routes::default()
        }
    }

    #[test]
    fn a_consumer_may_allow_less_time_and_not_more() {
        let theirs = producer(vec![
            rule("shop/cart", Some(500), Some(1)),
            rule("shop/cart", Some(1_000), Some(2)),
        ]);
        for (own, held) in [
            ((Some(300), Some(1)), (Some(300), Some(1))),
            ((Some(5_000), Some(9)), (Some(1_000), Some(2))),
            ((None, None), (Some(1_000), None)),
        ] {
            let own_routes = consumer(vec![rule("front/cart", own.0, own.1)]);
            let (within, changed) = tighten(&cart(), &own_routes, &theirs);
            let action = &within.of_callers[&front()].rules[0].then;
            let attempts = action.retry.as_ref().map(|r| r.attempts);
            assert_eq!((action.timeouts.whole_ms, attempts), held, "{own:?}");
            assert_eq!(changed.is_empty(), own == held, "{changed:?}");
            assert_eq!(within == own_routes, own == held);
        }
        // One rule that states nothing: nothing is bounded.
        let open = producer(vec![
            rule("shop/cart", Some(500), None),
            rule("shop/cart", None, None),
        ]);
        let own = consumer(vec![rule("front/cart", Some(5_000), Some(9))]);
        assert_eq!(tighten(&cart(), &own, &open), (own.clone(), vec![]));
        assert_eq!(tighten(&cart(), &own, &Routes::default()), (own, vec![]));
    }

    #[test]
    fn what_the_proxy_answers_itself_and_the_producers_own_rules_stay() {
        let theirs = producer(vec![rule("shop/cart", Some(500), None)]);
        let mut redirect = rule("front/cart", None, None);
        redirect.then = Arc::new(Action::new(To::Direct(tradewind_api::route::Direct {
            status: 503,
            body: None,
        })));
        let mut own = consumer(vec![redirect]);
        own.of_all = Some(table(vec![rule("shop/cart", None, None)]));
        assert_eq!(tighten(&cart(), &own, &theirs), (own.clone(), vec![]));
    }

    #[test]
    fn the_producers_word_is_what_its_namespace_says_to_everybody() {
        let own = table(vec![rule("shop/cart", None, None)]);
        let others = table(vec![
            rule("shop/cart", None, None),
            rule("front/cart", None, None),
        ]);
        let for_all = Arc::new(policy(None, PerPort::default()));
        let mut stray = policy(None, PerPort::default());
        stray.origin = origin(Kind::DestinationRule, "front/cart");
        let mut some = policy(None, PerPort::default());
        some.caller_labels = [("app".to_owned(), "web".to_owned())].into();
        let all = Routes {
            of_callers: [(front(), Arc::clone(&own))].into(),
            of_all: Some(Arc::clone(&own)),
            traffic: vec![
                Arc::new(some),
                Arc::clone(&for_all),
                Arc::new(stray.clone()),
            ],
            ..Routes::default()
        };
        let expected = Routes {
            of_callers: BTreeMap::new(),
            of_all: Some(own),
            traffic: vec![for_all],
            ..Routes::default()
        };
        assert_eq!(producers(&cart(), &all), Some(expected));
        let none = Routes {
            of_all: Some(others),
            traffic: vec![Arc::new(stray)],
            ..Routes::default()
        };
        assert_eq!(producers(&cart(), &none), None);
    }

    #[test]
    fn of_streams_the_producers_word_is_what_its_namespace_says_to_everybody_and_nothing_is_bounded()
     {
        let rule = |object: &str| StreamRule {
            origin: origin(Kind::TcpRoute, object),
            when: StreamMatch::default(),
            to: Vec::new(),
        };
        let table = |objects: &[&str]| {
            Some(Arc::new(StreamTable {
                rules: objects.iter().map(|o| rule(o)).collect(),
                otherwise: StreamOtherwise::Closed,
            }))
        };
        let of = |of_all, of_front: Option<_>| Routes {
            streams: Streams {
                of_all,
                of_callers: of_front.map(|t| (front(), t)).into_iter().collect(),
            },
            ..Routes::default()
        };
        let own = table(&["shop/cart"]);
        let all = of(own.clone(), table(&["front/cart"]));
        assert_eq!(producers(&cart(), &all), Some(of(own, None)));
        assert_eq!(
            producers(&cart(), &of(table(&["shop/cart", "front/cart"]), None)),
            None
        );
        assert_eq!(producers(&cart(), &of(None, table(&["shop/cart"]))), None);
        let consumers = of(None, table(&["front/cart"]));
        assert_eq!(
            tighten(&cart(), &consumers, &all),
            (consumers.clone(), vec![])
        );
    }

    fn policy(namespace: Option<Namespace>, settings: PerPort) -> TrafficPolicy {
        let object = namespace.as_ref().map_or("shop/cart", |_| "front/cart");
        TrafficPolicy {
            origin: origin(Kind::DestinationRule, object),
            namespace,
            caller_labels: BTreeMap::new(),
            settings,
            subsets: BTreeMap::new(),
        }
    }

    fn requests(requests: Option<u32>) -> Settings {
        Settings {
            pool: Pool {
                requests,
                ..Pool::default()
            },
            ..Settings::default()
        }
    }

    fn all(settings: Settings) -> PerPort {
        PerPort {
            all: Arc::new(settings),
            ports: BTreeMap::new(),
        }
    }

    #[test]
    fn a_consumer_may_ask_less_at_once_and_keeps_the_producers_detection() {
        let mut bounded = requests(Some(10));
        bounded.outlier = Some(Outlier::default());
        let mut theirs = policy(None, all(bounded));
        theirs.settings.ports = [(81, Arc::new(requests(Some(1))))].into();
        let v2 = Subset {
            settings: all(requests(Some(3))),
            ..Subset::default()
        };
        theirs.subsets = [("v2".to_owned(), v2)].into();
        let producer = Routes {
            traffic: vec![Arc::new(theirs)],
            ..Routes::default()
        };
        let mut own = policy(Some(front()), all(requests(Some(50))));
        let subset = |n| Subset {
            settings: all(requests(Some(n))),
            ..Subset::default()
        };
        own.subsets = [("v2".to_owned(), subset(2)), ("v3".to_owned(), subset(50))].into();
        let consumer = Routes {
            traffic: vec![Arc::new(own)],
            ..Routes::default()
        };
        let (within, changed) = tighten(&cart(), &consumer, &producer);
        assert_eq!(changed.len(), 1, "{changed:?}");
        let held = &within.traffic[0];
        let at = |per_port: &PerPort, port| per_port.of(port).pool.requests;
        assert_eq!(
            (at(&held.settings, 80), at(&held.settings, 81)),
            (Some(10), Some(1))
        );
        assert!(held.settings.of(80).outlier.is_some());
        assert_eq!(
            at(&held.subsets["v2"].settings, 80),
            Some(2),
            "less is his to say"
        );
        assert_eq!(at(&held.subsets["v3"].settings, 80), Some(10));
        let (again, changed) = tighten(&cart(), &within, &producer);
        assert_eq!((again, changed.len()), (within, 0), "it is within already");
    }
}
