//! Rules as another cluster publishes them: read, judged, set beside own ones, compiled and asked as a caller's proxy does.

#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::{Corpus, fuzz_target};
use tradewind_api::{
    Namespace, ServiceName,
    route::Routes,
    traffic::{Balance, Labels},
};
use tradewind_policy::{producers, tighten};
use tradewind_transport::{
    balance::hash::Table,
    route::{Call, Caller, Compiled},
};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(routes) = serde_json::from_slice::<Routes>(data) else {
        return Corpus::Reject;
    };
    let service: ServiceName = "shop/cart".parse().expect("a name");
    let said = producers(&service, &routes).unwrap_or_default();
    let (held, _) = tighten(&service, &routes, &said);
    let (again, changed) = tighten(&service, &held, &said);
    assert_eq!((again, changed.len()), (held, 0), "what is within stays as it is");
    let (namespace, labels) = (Namespace::new("shop").expect("a name"), Labels::new());
    for policy in &said.traffic {
        if policy.validate().is_ok()
            && let Balance::Hash(hash) = &policy.settings.all.balance
        {
            let table = Table::new(&[(1, 100.0), (2, 100.0), (3, 1.0)], hash.table);
            assert_eq!(table.members(7).count(), 3);
        }
        policy.settings.all.words();
    }
    if let Some(table) = &said.of_all {
        let headers = HeaderMap::new();
        let call = Call {
            port: 80,
            method: &Method::GET,
            scheme: "http",
            authority: "cart.shop",
            path: "/a/b",
            query: Some("c=d"),
            headers: &headers,
            caller: Caller {
                namespace: &namespace,
                labels: &labels,
            },
        };
        Compiled::new(table).decide(&call);
    }
    Corpus::Keep
});
