//! What one source or one member can take of a gateway's places, and what is left for the others.

use super::{sealed::name, *};
use crate::names::tests::opens;
use tokio::net::TcpSocket;

/// A call from one of this machine's own addresses.
async fn call_from(
    source: &str,
    pki: &Pki,
    gateway: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{source}:0").parse().unwrap())?;
    let stream = socket.connect(gateway).await?;
    over(pki, stream, &to("west", "shop/payments", None)).await
}

#[tokio::test]
async fn one_source_that_does_not_say_who_it_is_leaves_room_for_another() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |config| {
        config.max_connections = Some(8);
    });
    let mut greedy = Vec::new();
    for _ in 0..7 {
        greedy.push(call_from("127.0.0.1", &pki, g.address).await.unwrap());
    }
    let refused =
        r#"tradewind_gateway_connections_refused_total{reason="over_share",to="shop/payments:80""#;
    let error = call_from("127.0.0.1", &pki, g.address).await.unwrap_err();
    assert!(alert_of(&error).contains("InternalError"), "{error:?}");
    assert_eq!(counted(&g, refused), 1);

    let mut other = call_from("127.0.0.2", &pki, g.address).await.unwrap();
    served_by(&mut other).await;
    assert!(echoes(&mut other, "served").await);
    for stream in &mut greedy {
        served_by(stream).await;
        assert!(echoes(stream, "still here").await);
    }
    let error = call_from("127.0.0.3", &pki, g.address).await.unwrap_err();
    assert!(alert_of(&error).contains("InternalError"), "{error:?}");
    let full =
        r#"tradewind_gateway_connections_refused_total{reason="too_many",to="shop/payments:80""#;
    assert_eq!(counted(&g, full), 1);

    // What is given back can be taken again.
    drop(greedy.pop());
    let until = time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = call_from("127.0.0.3", &pki, g.address).await {
        assert!(time::Instant::now() < until, "{error}");
        time::sleep(Duration::from_millis(10)).await;
    }
}

/// From as many addresses as a member has callers: it is the member that holds them, not the addresses.
#[tokio::test]
async fn a_member_that_takes_all_it_can_leaves_room_for_the_other_and_for_controllers() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let controller = workload(&pki, "c", &mut tasks).await.to_string();
    let mut s = mesh(&pki, &mut tasks).await;
    let mut south = cluster(&mut s, "east").clone();
    south.name = ClusterName::new("south").unwrap();
    s.clusters.insert(south.name.clone(), Arc::new(south));
    opens(&mut s, "east", &[1]);
    opens(&mut s, "south", &[2]);
    let g = start(s, |config| {
        config.max_connections = Some(20);
        config.controller_backend = controller;
    });
    let names = [
        name("east", "west", 1, "shop/payments", 60),
        name("south", "west", 2, "shop/payments", 60),
    ];
    let fill = async |member: usize| {
        let mut held = Vec::new();
        loop {
            let source = format!("127.0.{member}.{}", held.len() + 1);
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
            let stream = socket.connect(g.address).await.unwrap();
            match over(&pki, stream, &names[member]).await {
                Ok(stream) => held.push(stream),
                Err(error) => {
                    assert!(alert_of(&error).contains("InternalError"), "{error:?}");
                    return held;
                }
            }
        }
    };
    let mut east = fill(0).await;
    assert_eq!(east.len(), 16, "four fifths of all");
    let mut south = fill(1).await;
    assert_eq!(south.len(), 4, "and of what is left, while that is little");
    let west = ClusterName::new("west").unwrap();
    let control = encode(&Target::Controller { cluster: west }, &Domain::default());
    let mut control = call(&pki, g.address, &control).await.unwrap();
    assert_eq!(served_by(&mut control).await, "c");
    for stream in east.iter_mut().chain(&mut south) {
        served_by(stream).await;
        assert!(echoes(stream, "still here").await);
    }
    let refused = |reason, peer| {
        let labels = format!(r#"{{reason="{reason}",to="shop/payments:80",peer="{peer}"}}"#);
        counted(
            &g,
            &format!("tradewind_gateway_connections_refused_total{labels}"),
        )
    };
    assert_eq!(
        (refused("over_share", "east"), refused("too_many", "south")),
        (1, 1)
    );

    // As connections end, whoever has little gets their places.
    east.truncate(10);
    let active = r#"tradewind_gateway_connections_active{to="shop/payments:80",peer="east"} 10"#;
    g.metric(active).await;
    let more = fill(1).await;
    assert_eq!(more.len(), 4);
    assert_eq!(fill(0).await.len(), 0, "it still has more than its share");
    let places = &g.state().await["places"];
    assert_eq!(places["carried"]["places"], 20);
    assert_eq!(places["carried_by"]["east"], 10, "{places}");
}
