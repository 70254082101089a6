//! A federation's gateways: a cluster's usual one, further ones, and what the other clusters know of them. Owns nothing: a
//! further one belongs to whoever started it.

use crate::{
    Federation, Process,
    federation::{ADMIN, CONTROLLER, GATEWAY, host},
    wait::{USUAL, until},
};

impl Federation {
    /// Starts, or starts again, a cluster's usual gateway.
    pub fn start_gateway(&mut self, number: usize) {
        let process = self.start_gateway_at(number, host::GATEWAY, "gateway", "5s", &[]);
        self.clusters[number].gateway = Some(process);
    }

    /// A gateway at any of a cluster's addresses, with a deadline for its drain, and more flags.
    pub fn start_gateway_at(
        &self,
        number: usize,
        at: u8,
        name: &str,
        drain_deadline: &str,
        more: &[&str],
    ) -> Process {
        let listen = self.addr(number, at, GATEWAY).to_string();
        let admin = self.addr(number, at, ADMIN).to_string();
        let backend = self.addr(number, host::CONTROLLER, CONTROLLER).to_string();
        let dir = self.data_dir(number);
        let args = [
            "gateway",
            "--name",
            name,
            "--data-dir",
            &dir,
            "--listen",
            &listen,
            "--admin-listen",
            &admin,
            "--controller-backend",
            &backend,
            "--threads",
            "1",
            "--drain-deadline",
            drain_deadline,
        ];
        self.process(number, name, &[&args, more].concat())
    }

    /// A cluster's second gateway, ready.
    pub async fn second_gateway(&self, number: usize, drain_deadline: &str) -> Process {
        let at = host::SECOND_GATEWAY;
        let process = self.start_gateway_at(number, at, "gateway-2", drain_deadline, &[]);
        self.ready(self.addr(number, at, ADMIN)).await;
        process
    }

    /// The addresses of a cluster's gateways, as another one knows them now.
    pub async fn gateways_of(&self, number: usize, asked: usize) -> Vec<String> {
        let seen = self.json(asked, &["clusters"]).await;
        let name = &self.clusters[number].name;
        let mut all = seen["clusters"].as_array().into_iter().flatten();
        let cluster = all.find(|c| c["name"] == name.as_str());
        let known = cluster.and_then(|c| c["gateways"].as_array());
        let addresses = known.into_iter().flatten().filter_map(|g| g.as_str());
        addresses.map(str::to_owned).collect()
    }

    /// Waits until `asked` knows the gateways at these last parts of a cluster's addresses, and no others.
    pub async fn announced(&self, number: usize, asked: usize, hosts: &[u8]) {
        let of = |host: &u8| self.addr(number, *host, GATEWAY).to_string();
        let mut wanted: Vec<_> = hosts.iter().map(of).collect();
        wanted.sort();
        until(
            &format!("exactly the gateways {wanted:?}"),
            USUAL,
            || async {
                let mut known = self.gateways_of(number, asked).await;
                known.sort();
                if known == wanted { Ok(()) } else { Err(known) }
            },
        )
        .await;
    }
}
