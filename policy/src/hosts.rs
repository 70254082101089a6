//! Which services a host means, as Kubernetes names them.

use tradewind_api::{Namespace, ServiceName};

use crate::world::World;

/// What ends a service's full name: Kubernetes' own suffix and that of the MCS API.
const SUFFIXES: [&str; 4] = [".svc.cluster.local", ".svc.clusterset.local", ".svc", ""];

/// The service that a host without a star names, in an object of this namespace.
pub(crate) fn service(host: &str, from: &Namespace) -> Option<ServiceName> {
    let host = host.trim_end_matches('.');
    let bare = SUFFIXES.iter().find_map(|s| host.strip_suffix(s))?;
    match bare.split_once('.') {
        None => ServiceName::new(from.as_str(), bare).ok(),
        // One dot more is no service's name.
        Some((name, namespace)) => ServiceName::new(namespace, name).ok(),
    }
}

/// The known services that a host with a star in front means.
pub(crate) fn pattern<'a>(
    host: &'a str,
    world: &'a World,
) -> impl Iterator<Item = &'a ServiceName> {
    let end = host.trim_start_matches('*');
    world.services.keys().filter(move |service| {
        SUFFIXES.iter().take(2).any(|suffix| {
            let full = format!("{}.{}{suffix}", service.name(), service.namespace);
            full.ends_with(end) && full.len() > end.len()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_mean_services() {
        let shop = Namespace::new("shop").unwrap();
        for (host, is) in [
            ("cart", Some("shop/cart")),
            ("cart.front", Some("front/cart")),
            ("cart.front.svc", Some("front/cart")),
            ("cart.front.svc.cluster.local", Some("front/cart")),
            ("cart.front.svc.clusterset.local.", Some("front/cart")),
            ("www.example.com", None),
            ("", None),
            ("Cart", None),
        ] {
            let found = service(host, &shop).map(|s| s.to_string());
            assert_eq!(found.as_deref(), is, "{host}");
        }
        let names: Vec<ServiceName> = ["shop/cart", "shop/pay", "front/cart"]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        let world = World::of(names.iter().map(|n| (n, &[80][..])));
        let of = |host| {
            pattern(host, &world)
                .map(|s| s.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("*"), ["front/cart", "shop/cart", "shop/pay"]);
        assert_eq!(of("*.shop.svc.cluster.local"), ["shop/cart", "shop/pay"]);
        assert_eq!(
            of("*.svc.clusterset.local"),
            ["front/cart", "shop/cart", "shop/pay"]
        );
        assert!(of("*.example.com").is_empty());
    }
}
