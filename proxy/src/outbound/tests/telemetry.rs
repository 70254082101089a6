//! What outbound tells of its calls, and what it leaves as the application said it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tradewind_runtime::task::spawn_local;

use super::{
    Client, Local,
    peer::Peer,
    world::{World, on_one_thread, until},
};

#[tokio::test]
async fn what_an_application_says_of_a_trace_passes_unchanged() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        let said = [
            ("x-request-id", "mine"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            ),
            ("tracestate", "a=1,b=2"),
            ("baggage", "k=v"),
            ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
        ];
        let mut request = Request::get("/").header("host", "x");
        for (name, value) in said {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        client.0.send_request(request).await.unwrap();
        assert_eq!(client.get().await.0, StatusCode::OK);
        let heads = west.heads.borrow();
        for (name, value) in said {
            assert_eq!(heads[0].headers()[name], value);
            let made = heads[1].headers().contains_key(name);
            assert_eq!(made, name == "x-request-id", "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn calls_are_told_under_istios_names_with_the_clusters_of_both_sides() {
    on_one_thread(async {
        let world = World::new();
        let proxy = world.proxy().await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get().await.0, StatusCode::SERVICE_UNAVAILABLE);
        let east = Peer::start(&world, "e", "east").await;
        world.endpoint("e", "east", east.address);
        let r = client.send("POST", Bytes::from_static(b"hello")).await;
        assert_eq!(r.into_body().collect().await.unwrap().to_bytes(), "hello");
        let line = |cluster: &str, ending: &str| {
            let page = world.metrics.encode();
            page.lines()
                .filter(|l| l.starts_with("istio_requests_total{reporter=\"source\",source_workload=\"caller\","))
                .filter(|l| l.contains("source_cluster=\"west\",") && l.contains("destination_service=\"payments.shop.svc.cluster.local\""))
                .filter(|l| l.contains(&format!("destination_cluster=\"{cluster}\",request_protocol=\"http\",{ending}")))
                .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
                .sum::<u64>()
        };
        until("the answered call", || {
            line("east", "response_code=\"200\",grpc_response_status=\"unknown\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"") == 1
        })
        .await;
        let nobody = "response_code=\"503\",grpc_response_status=\"unknown\",response_flags=\"UH\",connection_security_policy=\"unknown\"";
        assert_eq!(line("unknown", nobody), 1);
        assert_eq!(world.count("istio_request_bytes_sum{reporter=\"source\""), 5);
    })
    .await;
}

#[tokio::test]
async fn messages_of_a_grpc_call_are_counted_however_they_are_framed() {
    on_one_thread(async {
        let world = World::new();
        let west = Peer::start(&world, "w", "west").await;
        world.endpoint("w", "west", west.address);
        let proxy = world.proxy().await;
        let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
        let (mut send, conn) = hyper::client::conn::http2::handshake(Local, io)
            .await
            .unwrap();
        drop(spawn_local("client", async move {
            drop(conn.await);
        }));
        // Three messages: one in two frames, its prefix apart from its end, and two that end in the same frame; a fourth is cut.
        let frames = [
            b"\0\0\0\0".as_slice(),
            b"\x03a",
            b"bc\0\0\0\0\0\x01\0\0\0\x01x\0\0\0",
        ];
        let frames = frames.map(|f| Ok::<_, Infallible>(Frame::data(Bytes::from_static(f))));
        let body = StreamBody::new(tokio_stream::iter(frames));
        let request = Request::post("http://shop/x")
            .header("content-type", "application/grpc")
            .body(body)
            .unwrap();
        let response = send.send_request(request).await.unwrap();
        assert_eq!(response.collect().await.unwrap().to_bytes().len(), 22);
        for name in ["request", "response"] {
            let line = format!("istio_{name}_messages_total{{reporter=\"source\"");
            until("the call is counted", || world.count(&line) == 3).await;
        }
    })
    .await;
}
