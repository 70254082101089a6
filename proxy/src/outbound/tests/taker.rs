//! A gateway that connects another endpoint than the one it is asked for, as one does that has never heard of that: what is learnt is
//! booked on whoever answered.

use serde_json::Value;

use super::*;

/// Two endpoints of one cluster behind a gateway that leads to the same peer whatever it is asked for.
struct Misled {
    world: World,
    peer: Peer,
    proxy: world::Running,
}

impl Misled {
    async fn new() -> Self {
        let world = World::new();
        let peer = Peer::start(&world, "p", "central").await;
        let (at, _gateway) = gateway(peer.address).await;
        for id in ["one", "two"] {
            world.endpoint(id, "central", peer.address);
            world.behind(id, &[at]);
        }
        let proxy = world.proxy().await;
        Self { world, peer, proxy }
    }

    /// Who served so many requests, as their answers say.
    async fn served(&self, act: Act, calls: usize) -> Vec<String> {
        let mut by = Vec::new();
        let mut client = Client::connect(self.proxy.address).await;
        for _ in 0..calls {
            self.peer.then([act.clone()]);
            let answer = client.send("GET", Bytes::new()).await;
            assert_eq!(answer.status(), 200);
            let served_by = answer.headers()["tradewind-served-by"].to_str().unwrap();
            by.push(served_by.to_owned());
            assert!(answer.headers().get("tradewind-endpoint").is_none());
            answer.into_body().collect().await.unwrap();
        }
        by
    }

    fn detector(&self, id: &str) -> Value {
        let state = self.proxy.outbound.state_json();
        let endpoints = state["services"][0]["endpoints"].as_array().unwrap();
        let it = endpoints.iter().find(|e| e["id"] == id).unwrap();
        it["detector"].clone()
    }
}

#[tokio::test]
async fn an_answer_is_booked_on_whoever_says_that_it_is_his() {
    on_one_thread(async {
        let misled = Misled::new().await;
        let by = misled.served(Act::EchoAs("two"), 30).await;
        assert!(by.iter().all(|by| by == "central/two"), "{by:?}");
        assert_eq!(misled.detector("two"), "closed");
        assert_ne!(misled.detector("one"), "closed", "nobody reached it");
        let out = "tradewind_outbound_ejections_total";
        assert!(misled.world.count(out) >= 1, "and that is told");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_the_one_that_was_asked() {
    on_one_thread(async {
        let misled = Misled::new().await;
        let by = misled.served(Act::Echo, 30).await;
        for id in ["one", "two"] {
            assert!(by.contains(&format!("central/{id}")), "{by:?}");
            assert_eq!(misled.detector(id), "closed");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_is_out_where_all_names_are_old() {
    on_one_thread(async {
        let misled = Misled::new().await;
        let by = misled.served(Act::EchoAs("new"), 30).await;
        assert!(by.iter().all(|by| by == "central/new"), "{by:?}");
        for id in ["one", "two"] {
            assert_eq!(misled.detector(id), "closed");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_counted_on_whoever_took_it() {
    on_one_thread(async {
        let misled = Misled::new().await;
        let ids = ["one", "two"];
        for _ in 0..10 {
            misled.peer.then([Act::EchoAs("two")]);
            let mut client = TcpStream::connect(misled.proxy.address).await.unwrap();
            client.write_all(b"\x01\x02raw").await.unwrap();
            let mut back = [0; 5];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"\x01\x02raw");
        }
        let [one, two] = ids.map(|id| misled.detector(id));
        assert_eq!(two, "closed");
        assert_ne!(one, "closed");
    })
    .await;
}
