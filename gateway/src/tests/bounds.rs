//! What one source can take of a gateway's places, and what is left for the others.

use super::*;
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
async fn one_source_takes_half_of_the_places_and_another_is_served() {
    let (pki, mut tasks) = (Pki::new(), TaskSet::new());
    let g = start(mesh(&pki, &mut tasks).await, |config| {
        // Sources are counted by thread.
        config.threads = 1;
        config.max_connections = Some(8);
    });
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(call_from("127.0.0.1", &pki, g.address).await.unwrap());
    }
    let refused = r#"tradewind_gateway_connections_refused_total{reason="too_many"}"#;
    let before = counted(&g, refused);
    let error = call_from("127.0.0.1", &pki, g.address).await.unwrap_err();
    assert!(alert_of(&error).contains("InternalError"), "{error:?}");
    assert_eq!(counted(&g, refused), before + 1);

    let mut other = call_from("127.0.0.2", &pki, g.address).await.unwrap();
    served_by(&mut other).await;
    assert!(echoes(&mut other, "served").await);
    for stream in &mut greedy {
        served_by(stream).await;
        assert!(echoes(stream, "still here").await);
    }

    // What is given back can be taken again.
    drop(greedy.pop());
    let until = time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = call_from("127.0.0.1", &pki, g.address).await {
        assert!(time::Instant::now() < until, "{error}");
        time::sleep(Duration::from_millis(10)).await;
    }
}
